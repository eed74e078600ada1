"""Fresh seeds at every run; the log names them, so that a broken one can be replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sim.world import run_seed

ROOT = Path(__file__).parent.parent.parent
SEEDS = 300


def test_fresh_seeds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seeds", str(SEEDS), "--jobs",
         str(min(2, os.cpu_count() or 1))],
        cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-2_000:])
    assert done.returncode == 0, done.stdout[-4_000:]
    assert f"{SEEDS} passed, 0 failed" in done.stdout


def test_equal_seeds_have_equal_histories() -> None:
    first, second = run_seed(4711, 200), run_seed(4711, 200)
    assert first.fingerprint() == second.fingerprint()
    assert first.trace == second.trace
    assert first.fingerprint()[0] > 50
    assert first.lives > 1
