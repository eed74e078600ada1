"""Compilers for the C SDK: what is built once is kept for the whole test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
SDK: Final = ROOT / "plumd/sdk/c"
EXAMPLES: Final = SDK / "examples"
HERE: Final = Path(__file__).parent
WARNINGS: Final = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
C99: Final = ("-std=c99", *WARNINGS)
CXX14: Final = ("-std=c++14", *WARNINGS)
VARIANTS: Final = {
    "plain": ("-O1",),
    "asan": ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "tsan": ("-O0", "-g1", "-fsanitize=thread"),
}


def tool(name: str) -> str:
    """A program of the machine; a test that needs one that is not there says so."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make test-deps")
    return found


def run(*words: str | Path, given: str | None = None, timeout_s: float = 60,
        code: int | None = 0) -> str:
    """What a program printed on stdout. Its stderr is shown when its exit code is not `code`."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=timeout_s,
                          env=environment(), errors="surrogateescape")
    if code is not None:
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment() -> dict[str, str]:
    """The test's environment, without what would configure Plum; sanitizers end the program."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("PLUM", "CONTROLLER_", "WORKER_"))}
    return kept | {"ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1",
                   "UBSAN_OPTIONS": "print_stacktrace=1"}


class Workshop:
    """Builds programs from the SDK and one source, in one directory; each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[Path, Lock] = {}
        self._guard = Lock()

    def once(self, out: Path, *words: str | Path) -> Path:
        """The file that a command makes; who comes while it is made waits."""
        with self._guard:
            lock = self._locks.setdefault(out, Lock())
        with lock:
            if not out.exists():
                run(*words)
        return out

    def begin(self) -> None:
        """Build on another processor what takes long, while the first tests run."""
        for work in (self.inside, self.fuzzer, partial(self.sdk, "tsan")):
            Thread(target=partial(_quietly, work), daemon=True).start()

    def sdk(self, variant: str) -> Path:
        """plum.o in a variant."""
        out = self.folder / f"plum-{variant}.o"
        return self.once(out, tool("gcc"), *C99, *VARIANTS[variant], "-c", SDK / "plum.c", "-o",
                         out)

    def program(self, source: Path, variant: str = "plain", *flags: str) -> Path:
        """The program of a C or C++ source, linked with the SDK."""
        out, plus = self.folder / f"{source.stem}-{variant}", source.suffix == ".cpp"
        return self.once(out, tool("g++" if plus else "gcc"), *(CXX14 if plus else C99),
                         *VARIANTS[variant], f"-I{SDK}", source, self.sdk(variant), "-o", out,
                         "-lpthread", *flags)

    def inside(self) -> Path:
        """The program that looks at plum.c from inside; it holds plum.c itself."""
        out = self.folder / "inside"
        return self.once(out, tool("gcc"), *C99, *VARIANTS["asan"], "-O1", f"-I{SDK}",
                         HERE / "inside.c", "-o", out, "-lpthread")

    def fuzzer(self) -> Path:
        """The same as a libFuzzer target."""
        out = self.folder / "fuzzer"
        return self.once(out, tool("clang"), *C99, "-g1", "-O1",
                         "-fsanitize=fuzzer,address,undefined", "-DPLUM_LIBFUZZER", f"-I{SDK}",
                         HERE / "inside.c", "-o", out, "-lpthread")


def _quietly(work: Callable[[], Path]) -> None:
    """The test that needs it will say what was wrong."""
    with contextlib.suppress(AssertionError, pytest.skip.Exception, subprocess.TimeoutExpired):
        work()
