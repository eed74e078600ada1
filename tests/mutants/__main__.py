"""python -m tests.mutants [WORD ...]: all faults, or those that a word is said of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.mutants.faults import CORE, FAULTS, SUITES, Fault

ROOT: Final = Path(__file__).parent.parent.parent
LEFT_OUT: Final = shutil.ignore_patterns(
    ".venv", ".git", "__pycache__", "*.c.o", "build", "dist", "node_modules", ".*_cache", "data",
    ".hypothesis", "soak-*.log")
EXTENSION: Final = f"plumd/_sched{sysconfig.get_config_var('EXT_SUFFIX')}"
PATIENCE_S: Final = 15.0
BASE_S: Final = 300.0
SLOWER: Final = 4.0
"""A suite that takes so many times as long as without the fault hangs: that is seen, too."""


class Copy:
    """The tree, copied to where faults may be put into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.usual_s: dict[str, float] = {}

    def run(self, suite: str) -> tuple[bool, str]:
        """(whether a suite passes, the last of what it said)."""
        usual_s = self.usual_s.get(suite)
        patience_s = BASE_S if usual_s is None else PATIENCE_S + SLOWER * usual_s
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *SUITES[suite]], cwd=self.root, env=self.environment,
                capture_output=True, text=True, timeout=patience_s)
        except subprocess.TimeoutExpired:
            return False, f"it hung for {patience_s:.0f} s"
        self.usual_s.setdefault(suite, time.monotonic() - begun)
        said = [line for line in done.stdout.splitlines() if line.strip()]
        why = [line for line in said if line.startswith(("E  ", "FAILED", "ERROR", "seed "))]
        return done.returncode == 0, (why or said or ["it said nothing"])[0].strip()

    def build(self) -> None:
        """Compile the core; raises CalledProcessError."""
        subprocess.run(
            [Path(sys.executable).parent / "cythonize", "-i", "-q", CORE], cwd=self.root,
            env=self.environment | {"CFLAGS": "-O0"}, check=True, capture_output=True)

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """The tree with this fault in it, and as it was afterwards."""
        path, extension = self.root / fault.file, self.root / EXTENSION
        good, binary = path.read_text(), extension.read_bytes()
        if good.count(fault.old) != 1:
            raise ValueError(f"{fault.file} has its place {good.count(fault.old)} times")
        path.write_text(good.replace(fault.old, fault.new))
        try:
            if fault.file.endswith((".pyx", ".pxi")):
                self.build()
            yield
        finally:
            path.write_text(good)
            extension.unlink()
            extension.write_bytes(binary)


def caught_by(copy: Copy, fault: Fault) -> tuple[str, str]:
    """(the suite that saw it or "", what that said)."""
    try:
        with copy.fault(fault):
            for suite in fault.suites:
                passed, said = copy.run(suite)
                if not passed:
                    return suite, said
    except ValueError as error:
        return "", f"cannot be put in: {error}"
    except subprocess.CalledProcessError as error:
        return "", f"does not compile: {error.stderr[-300:]!r}"
    return "", "SURVIVED"


def main(words: list[str]) -> int:
    """Try each fault; answers 1 when one was not caught."""
    chosen = [fault for fault in FAULTS
              if not words or any(word in fault.breaks for word in words)]
    folder = Path(tempfile.mkdtemp(prefix="plum-mutants-"))
    try:
        copy = Copy(folder / "tree")
        shutil.copytree(ROOT, copy.root, ignore=LEFT_OUT)
        copy.build()
        for suite in sorted({suite for fault in chosen for suite in fault.suites}):
            passed, said = copy.run(suite)
            print(f"without a fault {suite} {'passes' if passed else 'FAILS: ' + said}",
                  flush=True)
            if not passed:
                print("0 passed, 1 failed")
                return 1
        failed = 0
        for number, fault in enumerate(chosen, 1):
            suite, said = caught_by(copy, fault)
            failed += not suite
            print(f"{number:3d}  {suite or '------':8} {fault.breaks}\n"
                  f"              {said[:160]}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
