"""python -m tests.sim SEED, or python -m tests.sim --seeds COUNT [--first SEED] [--jobs N]."""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import click

from tests.sim.world import run_seed


def attempt(seed: int, steps: int) -> tuple[int, str]:
    """(seed, what was broken or "")."""
    try:
        run_seed(seed, steps)
    except BaseExceptionGroup as group:
        return seed, repr(group)
    except Exception as error:
        return seed, repr(error)
    return seed, ""


@click.command()
@click.argument("seed", type=int, required=False)
@click.option("--seeds", type=int, default=0, help="So many seeds.")
@click.option("--first", type=int, default=None, help="From this one on; default a drawn one.")
@click.option("--steps", type=int, default=500, show_default=True)
@click.option("--jobs", type=int, default=2, show_default=True)
def main(seed: int | None, seeds: int, first: int | None, steps: int, jobs: int) -> None:
    """Play seeds; a broken promise ends with its seed, which replays it."""
    if seed is not None:
        world = run_seed(seed, steps)
        print(f"seed {seed}: {world.fingerprint()}, {world.lives} lives")
        return
    start = random.SystemRandom().randrange(1 << 40) if first is None else first
    begun, broken = time.monotonic(), 0
    print(f"seeds {start} .. {start + seeds - 1}, {steps} steps each", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        todo = range(start, start + seeds)
        for done, (number, what) in enumerate(
                pool.map(attempt, todo, [steps] * seeds, chunksize=20), 1):
            if what:
                broken += 1
                print(f"seed {number} broke: {what[:600]}", flush=True)
            if done % 500 == 0:
                print(f"{done} seeds in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{seeds - broken} passed, {broken} failed")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
