"""The daemon and the workers as processes, and what is done to them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.daemon.running import Cold, clean_environment, free_port

ROOT = Path(__file__).parent.parent.parent
WORKERS = 3
LEAVES_WITH = (0, 1)
"""1 = it had to let attempts go, because the daemon was away for longer than its lease."""
FLAGS = ("--shutdown-sec", "2", "--stop-grace-sec", "2")


class Fleet:
    """Worker processes with names that stay; each name has one record of all its lives."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.lives = 0
        self.surprises: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(WORKERS):
            self.begin(f"w{number}")

    def begin(self, name: str) -> None:
        """Start one."""
        self.lives += 1
        with (self.folder / "workers.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.worker", self.url, name,
                 str(self.folder / f"{name}.record")],
                cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log)

    def kill_one(self, rng: Random) -> None:
        """kill -9 for one of them, and a successor of the same name."""
        name = rng.choice(sorted(self.processes))
        self.processes[name].kill()
        self.processes[name].wait()
        self.begin(name)

    def look_after(self) -> None:
        """None may end by itself."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.surprises.append(f"{name} ended by itself with {process.returncode}")
                self.begin(name)

    def stop(self) -> None:
        """SIGTERM for all; they have nothing left to do."""
        for process in self.processes.values():
            process.terminate()
        for name, process in self.processes.items():
            try:
                if process.wait(20) not in LEAVES_WITH:
                    self.surprises.append(f"{name} left with {process.returncode}")
            except subprocess.TimeoutExpired:
                self.surprises.append(f"{name} did not leave")
                process.kill()
                process.wait()

    def complaints(self) -> list[str]:
        """What went wrong in any of them: a worker says no more than that its line broke."""
        said = (self.folder / "workers.log").read_text(errors="replace").splitlines()
        return [*self.surprises, *(
            line for number, line in enumerate(said)
            if "Error" in line and any("Traceback" in before for before in said[:number][-80:]))]

    def records(self) -> list[str]:
        """Every line that any of them ever wrote."""
        return [line for path in sorted(self.folder.glob("w*.record"))
                for line in path.read_text().splitlines()]


class Victim(Cold):
    """A daemon that may also die before it is up."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, *FLAGS)
        self.port = free_port()
        self.kills = self.early_kills = self.stops = 0
        self.slowest_start_s = 0.0

    def start(self) -> None:
        """Start, and remember how long it took."""
        begun = time.monotonic()
        super().start()
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - begun)

    def kill_early(self, after_s: float) -> None:
        """Start it and kill it before it is up, or a little later."""
        self.process = self.begin()
        time.sleep(after_s)
        self.kill()

    def suffer(self, rng: Random) -> None:
        """One death; afterwards it runs again."""
        chance = rng.random()
        if chance < 0.05:
            self.stops += 1
            code = self.stop()
            assert code == 0, f"a clean stop ended with {code}"
        else:
            self.kills += 1
            self.kill()
            if chance < 0.20:
                self.early_kills += 1
                self.kill_early(rng.uniform(0, 0.9))
        self.start()
