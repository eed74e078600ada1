"""The kinds of workers that there are, as the scenarios see them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from plumd.sdk.client import Client, JsonObject, ProblemError
from tests.clients.network import Network
from tests.daemon.running import free_port
from tests.sdk_c.building import HERE as SDK_C
from tests.sdk_c.building import Workshop
from tests.sdk_c.programs import Program, until

BEAT_MS: Final = 500
CALM_BEAT_MS: Final = 20_000
"""For what must be over before a lease is, however busy the machine is; and a worker whose line is
lost again and again lets up to 15 s pass before it tries once more.
"""
LEASE_S: Final = 3.0
"""Of three beats; no lease is shorter."""
HERE: Final = Path(__file__).parent


class Place(NamedTuple):
    """Where a worker is started. link: the network between it and the daemon, if a test cuts it.
    beat_ms: those of the session protocol are heard so often.
    """

    url: str
    worker_id: str
    name: str
    folder: Path
    link: Links | None = None
    beat_ms: int = BEAT_MS

    @property
    def notes(self) -> Path:
        """Where it writes down what it starts."""
        return self.folder / "notes"


Words = Callable[[Workshop, Place], list[str | Path]]


class Kind(NamedTuple):
    """A kind of worker.

    words: the command that starts one.  path: where the API shows them.
    told: it can be told to stop.  resumes: what it has in hand survives a lost line and a daemon
    that was killed.  replaced: its exit code when another process takes its id; None: it is not
    told.  drains: SIGTERM lets it finish what it has in hand.  lease_s: how long it is believed.
    """

    id: str
    words: Words
    path: str = "/v1/embedded-workers"
    told: bool = True
    resumes: bool = True
    replaced: int | None = 19
    drains: bool = True
    lease_s: float = LEASE_S


class Links:
    """All that lies between one worker and the daemon, in both directions."""

    def __init__(self, daemon_port: int) -> None:
        self._stack = ExitStack()
        self.up = self._stack.enter_context(Network(daemon_port))
        self._all = [self.up]

    def down(self, worker_port: int) -> Network:
        """The way to a worker that is called."""
        network = self._stack.enter_context(Network(worker_port))
        self._all.append(network)
        return network

    def cut(self, *, refuse: bool) -> None:
        """Nothing passes from now on; see Network."""
        for network in self._all:
            network.cut(refuse=refuse)

    def restore(self) -> None:
        """It is whole again."""
        for network in self._all:
            network.restore()

    def close(self) -> None:
        """Take it away."""
        self._stack.close()


def _c(*options: str) -> Words:
    def words(workshop: Workshop, place: Place) -> list[str | Path]:
        return [workshop.program(SDK_C / "scenarios.c"), place.url, place.worker_id, "16",
                f"name={place.name}", f"notes={place.notes}", f"beat={place.beat_ms}", *options]
    return words


def _cpp(workshop: Workshop, place: Place) -> list[str | Path]:
    return [workshop.program(HERE / "worker.cpp"), place.url, place.worker_id, place.name,
            place.notes, str(place.beat_ms)]


def _python(kind: str) -> Words:
    def words(workshop: Workshop, place: Place) -> list[str | Path]:
        del workshop
        ports: list[str] = []
        if kind == "http" and place.link is not None:
            port = free_port()
            ports = [str(port), str(place.link.down(port).port)]
        return [sys.executable, "-m", "tests.clients.workers", kind, place.url, place.worker_id,
                place.name, place.notes, str(place.beat_ms), *ports]
    return words


KINDS: Final = {kind.id: kind for kind in (
    Kind("c", _c()),
    Kind("c-poll", _c("poll")),
    Kind("cpp", _cpp),
    Kind("python", _python("websocket"), replaced=1),
    Kind("python-poll", _python("long-poll"), replaced=1),
    Kind("http", _python("http"), path="/v1/workers", told=False, resumes=False, replaced=None,
         drains=False, lease_s=15.0),
    Kind("grpc", _python("grpc"), told=False, drains=False, lease_s=90.0),
)}


def state_of(api: Client, kind: Kind, worker_id: str) -> JsonObject:
    """A worker as the API shows it; {} when there is none."""
    try:
        return api.get_object(f"{kind.path}/{worker_id}")
    except ProblemError as problem:
        if problem.code != "not_found":
            raise
        return {}


@contextmanager
def started(kind: Kind, workshop: Workshop, api: Client, place: Place, *,
            label: str = "") -> Iterator[Program]:
    """A worker that is registered; killed at the end, if it is still there."""
    out = place.folder / f"{place.worker_id}{label}.out"
    with Program(out, *kind.words(workshop, place)) as program:
        until(lambda: program.process.poll() is not None
              or state_of(api, kind, place.worker_id).get("health") == "Healthy")
        assert program.process.poll() is None, program.said
        yield program
