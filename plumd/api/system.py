"""/healthz, /readyz, /version, how busy the daemon is, and what `/` shows."""

from __future__ import annotations

import msgspec

import plumd
from plumd.api.context import Context, answer
from plumd.api.params import query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.errors import StorageDown
from plumd.executors import builtin
from plumd.stats import WINDOWS, History, Monitor, Stats


class Health(msgspec.Struct, frozen=True):
    """Alive: the loop turns and HTTP answers."""

    status: str


class Version(msgspec.Struct, frozen=True):
    """Which program answers."""

    name: str
    version: str


class State(msgspec.Struct, frozen=True, rename="camel"):
    """How much of everything there is at this moment."""

    version: str
    node_id: str
    writes: str
    queued: int
    pending: int
    running: int
    retrying: int
    workflow_runs: int
    workers: int
    commits: int
    commit_ms: float
    """A moving average of how long commits take."""
    next_event: int
    trusted_networks: tuple[str, ...]


class System:
    """The handlers."""

    def __init__(self, context: Context, node_id: str, trusted_networks: tuple[str, ...],
                 monitor: Monitor) -> None:
        self.context = context
        self.monitor = monitor
        self.node_id = node_id
        self.trusted_networks = trusted_networks

    def state(self) -> State:
        """A snapshot."""
        engine = self.context.engine
        queued, pending, running, retrying = engine.core.counts_by_state()
        return State(
            plumd.__version__, self.node_id, engine.down or "ok", queued, pending, running,
            retrying, len(engine.runs.live),
            engine.core.statistics()["workers"] - engine.own_workers,
            engine.store.commits, round(engine.store.commit_ns / 1e6, 3),
            engine.journal.next_seq, self.trusted_networks)

    def counts(self) -> dict[str, str | int | float]:
        """The same for the page at `/`."""
        state = self.state()
        return {"writes": state.writes, "node": state.node_id, "queued": state.queued,
                "pending": state.pending, "running": state.running, "retrying": state.retrying,
                "workflow runs": state.workflow_runs, "workers": state.workers,
                "trusted networks": ", ".join(state.trusted_networks) or "none"}

    async def show(self, request: Request) -> Response:
        """The snapshot."""
        del request
        return answer(200, self.state())

    async def stats(self, request: Request) -> Response:
        """The newest sample; it is at most a second old."""
        del request
        return Response(body=self.monitor.encoded)

    async def history(self, request: Request) -> Response:
        """The samples of a while, as columns."""
        window = query_choice(request.query, "window", tuple(WINDOWS), "15m")
        return answer(200, self.monitor.history(window))

    async def builtins(self, request: Request) -> Response:
        """The daemon's own tasks."""
        del request
        return answer(200, builtin.TABLE)

    async def healthz(self, request: Request) -> Response:
        """200 while the process lives and its loop turns, also in an outage of the disk."""
        del request
        return answer(200, Health("ok"))

    async def readyz(self, request: Request) -> Response:
        """200 when writes are taken."""
        del request
        if self.context.engine.down:
            raise StorageDown(self.context.engine.down)
        return answer(200, Health("ready"))

    async def version(self, request: Request) -> Response:
        """Name and version."""
        del request
        return answer(200, Version("plumd", plumd.__version__))


def routes(handlers: System) -> list[Route]:
    """The table's part about the daemon itself."""
    tag, read = "system", "system:read"
    return [
        Route("GET", "/healthz", handlers.healthz, "Is the daemon alive?", tag, "public",
              answers={200: Health}, trusted=True),
        Route("GET", "/readyz", handlers.readyz, "Does the daemon take writes?", tag, "public",
              answers={200: Health}, trusted=True),
        Route("GET", "/version", handlers.version, "Which version answers?", tag, "public",
              answers={200: Version}, trusted=True),
        Route("GET", "/v1/status", handlers.show, "How much of everything there is", tag, read,
              answers={200: State}),
        Route("GET", "/v1/builtins", handlers.builtins, "The daemon's own tasks, with a schema of "
              "what each takes", "tasks", "tasks:read", answers={200: list[builtin.Builtin]}),
        Route("GET", "/v1/stats", handlers.stats, "How busy the daemon is, sampled each second",
              tag, read, answers={200: Stats}),
        Route("GET", "/v1/stats/history", handlers.history, "The same over a while, as columns",
              tag, read, answers={200: History}, query=(
                  Query("window", str, "15m by the second (default), or 24h by the minute",
                        choices=tuple(WINDOWS)),)),
    ]
