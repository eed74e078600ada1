"""An outage under load, with several kinds of workers at once.

python -m tests.clients.outage [--seconds 60] [--what controller|network] [--workers 4]
                               [--kinds c,python,python-poll]

The controller is killed (or its network is silent) for so long while workers work, then it comes
back. What is found wrong is printed, and is the exit code. Everything that workers start and end is
in one file, in the order in which it happened.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

from plumd.sdk.client import Client, Json
from tests.clients.kinds import KINDS, Kind, Links, Place, started
from tests.clients.orders import echo, hold
from tests.daemon.running import Running
from tests.sdk_c.building import Workshop
from tests.sdk_c.programs import until

NAME = "outage"
LOOK_S = 0.01
LOAD_S = 0.01
HELD_S = 1.0
LONG = 6
"""So many run when the outage begins and would run on until it is over."""


class Found(NamedTuple):
    """What came of an outage. back_s: how long after the controller each worker was."""

    wrong: list[str]
    tasks: int
    ended_meanwhile: int
    back_s: dict[str, float]


class Load:
    """Tasks that come all the time: short ones, and some that are held for up to a second."""

    def __init__(self, url: str, folder: Path) -> None:
        self.expected: dict[str, Json] = {}
        self._url = url
        self._folder = folder
        self._chance = Random(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        """From now on."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """No more tasks; gates still open."""
        self._stop.set()
        self._thread.join()

    def hold(self, api: Client, gate: Path) -> str:
        """A task that is held until that gate opens."""
        task_id = str(api.submit(NAME, hold(gate), key=None, maxRetries=3)["taskId"])
        self.expected[task_id] = "held"
        return task_id

    def _run(self) -> None:
        with Client(self._url) as api:
            while not self._stop.wait(LOAD_S):
                number = len(self.expected)
                if number % 10:
                    made = api.submit(NAME, echo(number), key=None, maxRetries=3)
                    self.expected[str(made["taskId"])] = number
                    continue
                gate = self._folder / f"gate-{number}"
                self.hold(api, gate)
                timer = threading.Timer(self._chance.uniform(0, HELD_S), gate.touch)
                timer.daemon = True
                timer.start()


class Outage:
    """One outage in a folder."""

    def __init__(self, folder: Path, kinds: list[Kind], workers: int, seconds: float,
                 what: str) -> None:
        self.folder = folder
        self.ids = {f"{kind.id}-{number}": kind for kind in kinds for number in range(workers)}
        self.seconds = seconds
        self.network = what == "network"
        self.daemon = Running(folder / "data")

    def run(self) -> Found:
        """Load, outage, load, rest, audit."""
        workshop = Workshop(self.folder)
        with ExitStack() as stack:
            stack.enter_context(self.daemon)
            api = stack.enter_context(Client(self.daemon.url))
            links = Links(self.daemon.port)
            stack.callback(links.close)
            for worker_id, kind in self.ids.items():
                url = links.up.url if self.network else self.daemon.url
                stack.enter_context(started(kind, workshop, api, Place(
                    url, worker_id, NAME, self.folder)))
            load = Load(self.daemon.url, self.folder)
            load.begin()
            until(lambda: len(load.expected) >= 100)
            gate = self.folder / "gate-long"
            long = [load.hold(api, gate) for _ in range(LONG)]
            until(lambda: set(long) <= set(self.notes()))
            load.end()
            ended = self._away(links)
            back_s = self._return(api, links)
            gate.touch()
            load.begin()
            before = len(load.expected)
            until(lambda: len(load.expected) >= before + 100)
            load.end()
            return Found([*self.audit(api, load.expected)], len(load.expected), ended, back_s)

    def notes(self) -> list[str]:
        """What was started, and with a dash what was held and has ended, in order."""
        return (self.folder / "notes").read_text().split()

    def _away(self, links: Links) -> int:
        """The outage; how many handlers ended during it."""
        if self.network:
            links.cut(refuse=False)
        else:
            self.daemon.kill()
        before = len(self.notes())
        time.sleep(self.seconds)        # this is the outage, nothing is waited for
        return len(self.notes()) - before

    def _return(self, api: Client, links: Links) -> dict[str, float]:
        """The controller is back: after how many seconds each worker is."""
        since_ms = time.time() * 1000
        if self.network:
            links.restore()
        else:
            self.daemon.start()
        begun, back_s = time.monotonic(), dict[str, float]()
        while len(back_s) < len(self.ids):
            for worker in api.items("/v1/embedded-workers"):
                seen = worker["lastSeen"]
                if worker["health"] == "Healthy" and isinstance(seen, int) and seen >= since_ms:
                    back_s.setdefault(str(worker["workerId"]), time.monotonic() - begun)
            assert time.monotonic() - begun < 60, f"not back: {set(self.ids) - set(back_s)}"
            time.sleep(LOOK_S)
        return back_s

    def audit(self, api: Client, expected: dict[str, Json]) -> list[str]:
        """What is wrong once all is over."""
        wrong = []
        for task_id, result in expected.items():
            task = api.wait_task(task_id, 90)
            if (task["state"], task["result"]) != ("Succeeded", result):
                wrong.append(f"task {task_id} is {task['state']} with {task['result']!r}")
            endings = Counter(str(one["ending"]) for one in api.items(
                f"/v1/tasks/{task_id}/attempts")) if task["attempt"] != 1 else Counter()
            if endings["succeeded"] > 1:
                wrong.append(f"task {task_id} succeeded {endings['succeeded']} times")
        wrong += [f"attempt {line} was started {count} times"
                  for line, count in Counter(self.notes()).items() if count != 1]
        return wrong + overlaps(self.notes())


def overlaps(notes: list[str]) -> list[str]:
    """Attempts of held tasks that were started before the one before them had ended."""
    held = {line[1:] for line in notes if line.startswith("-")}
    running: dict[str, str] = {}
    wrong = []
    for line in notes:
        task_id = line.lstrip("-").partition(".")[0]
        if line.startswith("-"):
            running.pop(task_id, None)
        elif line in held:
            if task_id in running:
                wrong.append(f"attempt {line} was started while {running[task_id]} ran")
            running[task_id] = line
    return wrong


def main() -> int:
    """Run one and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.outage")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--what", choices=("controller", "network"), default="controller")
    parser.add_argument("--workers", type=int, default=4, help="of each kind")
    parser.add_argument("--kinds", default="c,python,python-poll")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plum-outage-") as folder:
        kinds = [KINDS[name] for name in given.kinds.split(",")]
        found = Outage(Path(folder), kinds, given.workers, given.seconds, given.what).run()
    print(f"{given.what} away for {given.seconds:g} s: {found.tasks} tasks, "
          f"{found.ended_meanwhile} notes of handlers meanwhile")
    print("workers were back after", ", ".join(
        f"{seconds:.2f} s ({name})" for name, seconds in sorted(
            found.back_s.items(), key=lambda pair: pair[1])))
    print(*(found.wrong or ["every result arrived once, and nothing ran twice at a time"]),
          sep="\n")
    return len(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
