"""python -m tests.soak --kills 200 [--seed S]: what it did and found is in soak-<seed>.log."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TextIO

import msgspec

from tests.soak.auditor import Auditor
from tests.soak.chaos import Fleet, Victim
from tests.soak.ledger import Ledger
from tests.soak.load import Client, Listener
from tests.soak.wire import Caller, NoAnswerError

CLIENTS = 3
REST_S = 90.0
LOOK_S = 0.2
WORKER_KILLS = 0.08


class Id(msgspec.Struct, frozen=True, rename="camel"):
    """What a create answers."""

    def_id: str = ""
    workflow_id: str = ""


class Past(msgspec.Struct, frozen=True):
    """An event of the log."""

    seq: int


class Soak:
    """One soak in a folder. pauses: seconds between two deaths, from .. to."""

    def __init__(self, folder: Path, seed: int, kills: int, pauses: tuple[float, float],
                 log: TextIO) -> None:
        self.folder = folder
        self.seed = seed
        self.kills = kills
        self.pauses = pauses
        self.log = log
        self.ledger = Ledger()
        self.daemon = Victim(folder / "data")
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        """A line for people, and for the log."""
        print(text, flush=True)
        self.log.write(text + "\n")
        self.log.flush()

    def run(self) -> int:
        """Load, deaths, rest, audit; answers how many checks failed."""
        self.say(f"soak: seed {self.seed}, {self.kills} kills, {self.folder}")
        self.daemon.start()
        try:
            workflow_id = make_workflow(Caller(self.daemon.port))
            fleet = Fleet(self.folder, self.daemon.url)
            try:
                return self.with_workers(fleet, workflow_id)
            finally:
                for process in fleet.processes.values():
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        finally:
            if self.daemon.process is not None and self.daemon.process.poll() is None:
                self.daemon.kill()

    def with_workers(self, fleet: Fleet, workflow_id: str) -> int:
        """The soak proper."""
        port, record = self.daemon.port, self.folder / "processes.record"
        listener = Listener(port, self.ledger)
        clients = [Client(number, self.seed, port, self.ledger, workflow_id, record)
                   for number in range(CLIENTS)]
        for thread in (listener, *clients):
            thread.start()
        self.make_trouble(fleet)
        for client in clients:
            client.enough.set()
        for client in clients:
            client.join(REST_S)
        self.say(f"faults stop after {time.monotonic() - self.begun:.0f} s: "
                 f"{self.daemon.kills} kill -9 and {self.daemon.early_kills} more during start-up, "
                 f"{self.daemon.stops} SIGTERM, {fleet.lives - 3} workers killed, slowest start "
                 f"{self.daemon.slowest_start_s:.1f} s")
        at_rest = self.come_to_rest(fleet)
        self.wait_for_listener(listener)
        auditor = self.audit(listener, fleet, record)
        fleet.stop()
        auditor.check("workers live and leave as they should", fleet.complaints())
        code = self.daemon.stop()
        auditor.check("the daemon came to rest and left cleanly", [] if at_rest and code == 0 else [
            f"at rest {at_rest}, exit code {code}"])
        auditor.database(self.daemon.data_dir / "plum.db")
        auditor.log(self.daemon.log.read_text(errors="replace"))
        self.say(", ".join(f"{name} {count}" for name, count in auditor.facts.items())
                 + f", answered {sum(one.answered for one in clients)}"
                 f", unanswered {sum(one.unanswered for one in clients)}"
                 f", event lines {listener.lines}, {time.monotonic() - self.begun:.0f} s in all")
        return auditor.report(self.say)

    def make_trouble(self, fleet: Fleet) -> None:
        """All the deaths, at moments of chance."""
        rng = Random(self.seed)
        for number in range(1, self.kills + 1):
            time.sleep(rng.uniform(*self.pauses))
            fleet.look_after()
            if rng.random() < WORKER_KILLS:
                fleet.kill_one(rng)
            self.daemon.suffer(rng)
            if number % 10 == 0:
                with self.ledger.lock:
                    self.say(f"{number:4d} deaths, {time.monotonic() - self.begun:4.0f} s, "
                             f"{len(self.ledger.task_ids)} tasks and "
                             f"{len(self.ledger.run_ids)} runs acknowledged, "
                             f"{len(self.ledger.troubles)} troubles")

    def come_to_rest(self, fleet: Fleet) -> bool:
        """Wait until nothing is under way; False when that does not happen."""
        caller, until = Caller(self.daemon.port), time.monotonic() + REST_S
        while time.monotonic() < until:
            fleet.look_after()
            try:
                if caller.status().live == 0:
                    return True
            except NoAnswerError as error:
                self.ledger.trouble(f"no status at rest: {error}")
            time.sleep(LOOK_S)
        return False

    def wait_for_listener(self, listener: Listener) -> None:
        """Until it has heard the newest event of the log; one that is never told is found later."""
        answer = Caller(self.daemon.port).call("GET", "/v1/events/history?limit=1")
        [newest] = msgspec.json.decode(answer.body, type=list[Past])
        until = time.monotonic() + REST_S
        while listener.last_id < newest.seq and time.monotonic() < until:
            time.sleep(LOOK_S)
        listener.enough.set()

    def audit(self, listener: Listener, fleet: Fleet, record: Path) -> Auditor:
        """Every check that the API can answer."""
        auditor = Auditor(self.ledger, self.daemon.port)
        auditor.read_all()
        auditor.acknowledged()
        auditor.ends()
        auditor.workers(fleet.records())
        auditor.processes(record)
        auditor.delays()
        auditor.steps()
        auditor.events(list(listener.heard))
        return auditor


def make_workflow(caller: Caller) -> str:
    """Three steps: a worker's, a timer, a worker's."""
    made = []
    for body in ({"name": "soak.async", "maxRetries": 2},
                 {"name": "soak.pause", "targetKind": "builtin", "targetRef": "builtin.delay"},
                 {"name": "soak.inline", "maxRetries": 2}):
        answer = caller.call("POST", "/v1/task-defs", body)
        assert answer.ok, answer.body
        made.append(msgspec.json.decode(answer.body, type=Id).def_id)
    steps = [{"definitionId": made[0], "payload": {"ms": 20}},
             {"definitionId": made[1], "payload": {"seconds": 0.1}},
             {"definitionId": made[2]}]
    answer = caller.call("POST", "/v1/workflows", {"name": "soak", "steps": steps})
    assert answer.ok, answer.body
    return msgspec.json.decode(answer.body, type=Id).workflow_id


def main() -> int:
    """Read the arguments and soak; 1 when a check failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--pause", type=float, nargs=2, default=(0.2, 2.0), metavar="S",
                        help="seconds between two deaths, from and to")
    parser.add_argument("--logs", type=Path, default=Path(), help="where soak-<seed>.log goes")
    parser.add_argument("--keep", action="store_true", help="keep the data for a look")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="plum-soak-"))
    failed = 1
    try:
        with (asked.logs / f"soak-{asked.seed}.log").open("w") as log:
            soak = Soak(folder, asked.seed, asked.kills, tuple(asked.pause), log)
            failed = soak.run()
    finally:
        if failed or asked.keep:
            print(f"its data is kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
