"""The soak in short: twenty deaths under load, with a fresh seed each time, which is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
KILLS = 20
LIMIT_S = 150


@pytest.mark.daemon
def test_twenty_deaths_under_load(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"python -m tests.soak --kills {KILLS} --seed {seed} --pause 0.1 0.9")
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--kills", str(KILLS), "--seed", str(seed),
         "--pause", "0.1", "0.9", "--logs", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    print(done.stdout[-4_000:], done.stderr[-2_000:])
    assert done.returncode == 0, f"seed {seed}"
    assert re.search(r"^[0-9]+ passed, 0 failed$", done.stdout, re.MULTILINE)
    assert (tmp_path / f"soak-{seed}.log").read_text().endswith(" passed, 0 failed\n")
