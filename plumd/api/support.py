"""/v1/support-bundle: what somebody who helps wants to see, in one file and without secrets.

Taken are answers of the daemon's own routes that hold no payloads, results, values or programs'
output, and facts that no route tells: settings, the database, the newest log lines, who runs in
the nursery tree.
"""

from __future__ import annotations

import io
import platform
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import apsw
import msgspec
import trio

import plumd
from plumd.api.context import Context
from plumd.api.openapi import ZipFile
from plumd.api.routes import Request, Response, Route
from plumd.config import SETTINGS, Config
from plumd.errors import PlumError
from plumd.scrub import scrubbed
from plumd.store.facts import facts

MANY: Final = {"limit": "1000"}
ASKED: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("status.json", "/v1/status", {}), ("stats-15m.json", "/v1/stats/history", {"window": "15m"}),
    ("stats-24h.json", "/v1/stats/history", {"window": "24h"}), ("metrics.txt", "/metrics", {}),
    ("failures.json", "/v1/tasks/failures", {}), ("workers.json", "/v1/embedded-workers", MANY),
    ("http-workers.json", "/v1/workers", MANY), ("nodes.json", "/v1/nodes", MANY),
    ("services.json", "/v1/services", MANY), ("limits.json", "/v1/limits", MANY),
)
"""(name in the bundle, path, query)"""
README: Final = """What is in here: answers of plumd's own routes (status, samples, metrics, groups
of failures, workers, nodes, services, limits), its settings, facts about the database file, the
newest log lines, and the tree of what runs in it. There are no payloads, results, keys, definitions
or output of programs in it, and what looks like a secret is replaced by ***. Look through it before
you give it away.
"""


class Support:
    """The handler. log: the newest lines.  routes: the table, once it is whole."""

    def __init__(self, context: Context, config: Config, log: Collection[str]) -> None:
        self.context = context
        self.config = config
        self.log = log
        self.routes: Mapping[str, Route] = {}

    def know(self, routes: Sequence[Route]) -> None:
        """The table of all routes, which this one is a part of."""
        self.routes = {route.path: route for route in routes if route.method == "GET"}

    async def bundle(self, request: Request) -> Response:
        """The file, made in memory: at most some megabytes."""
        parts = {"README.txt": README, "versions.json": as_json(
            versions() | {"madeAt": self.context.engine.clock.now().wall_ms}),
                 "settings.json": as_json(settings(self.config)),
                 "log.txt": "\n".join(self.log), "tasks.txt": "\n".join(tree()),
                 "database.json": as_json(await self.context.store.read(facts))}
        for name, path, query in ASKED:
            parts[name] = await self.asked(request, path, query)
        # It takes a while, and nobody else should wait for it.
        return Response(200, await trio.to_thread.run_sync(packed, parts), "application/zip", (
            ("content-disposition", 'attachment; filename="plum-support.zip"'),
            ("cache-control", "no-store")))

    async def asked(self, request: Request, path: str, query: dict[str, str]) -> str:
        """What a route answers; a refusal is told as such."""
        inner = msgspec.structs.replace(request, path=path, query=query, params={}, body=b"")
        try:
            response = await self.routes[path].handler(inner)
        except PlumError as refusal:
            return f"{refusal.code}: {refusal.detail}"
        return response.body.decode(errors="replace")


def as_json(value: object) -> str:
    """For people."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()


def packed(parts: Mapping[str, str]) -> bytes:
    """The zip of texts, scrubbed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in parts.items():
            bundle.writestr(name, scrubbed(text))
    return out.getvalue()


def versions() -> dict[str, str | int]:
    """Which programs these are."""
    return {"plumd": plumd.__version__, "python": sys.version, "platform": platform.platform(),
            "sqlite": apsw.sqlite_lib_version(), "apsw": apsw.apsw_version(),
            "trio": trio.__version__}


def settings(config: Config) -> dict[str, object]:
    """Every setting: its value and where that came from."""
    return {one.name: {"value": getattr(config, one.name),
                       "from": config.origins.get(one.name, "default")} for one in SETTINGS}


def tree() -> Iterator[str]:
    """Who runs in the nursery tree, by name, each below who waits for it."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [(root, 0)]
    while waiting:
        task, depth = waiting.pop()
        yield f"{'  ' * depth}{task.name}"
        for nursery in task.child_nurseries:
            waiting.extend((child, depth + 1) for child in nursery.child_tasks)


def routes(handlers: Support) -> list[Route]:
    """The table's part about support."""
    return [Route("GET", "/v1/support-bundle", handlers.bundle,
                  "What somebody who helps wants to see: a zip file without secrets", "system",
                  "system:read", answers={200: ZipFile})]
