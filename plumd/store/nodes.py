"""Nodes: what is known of a machine that does not change with every beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.model import AGENT_PREFIX
from plumd.store import sql
from plumd.store.store import Tx

SQL: Final = sql.load("nodes")
ENCODE: Final = msgspec.json.Encoder(order="deterministic").encode

Row: TypeAlias = tuple[str, str, str, str, str, bytes | None, str, str, int, int, int, int, int,
                       int]


class Facts(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent measured. Bytes, percent 0 .. 100; 0 or "" = it did not say."""

    cpus: int = 0
    cpu_percent: float = 0.0
    mem_total: int = 0
    mem_available: int = 0
    disk_total: int = 0
    disk_free: int = 0
    load1: float = 0.0
    os: str = ""
    arch: str = ""
    boot_id: str = ""

    @property
    def lasting(self) -> Facts:
        """The part that a row keeps."""
        return Facts(cpus=self.cpus, mem_total=self.mem_total, disk_total=self.disk_total,
                     os=self.os, arch=self.arch, boot_id=self.boot_id)


class NodeRow(msgspec.Struct, frozen=True):
    """A node's row. lost_ms: since when it is silent, 0 = it is not.

    shaky_ms: when it was lost last.  seen_ms: its last beat when the row was written.
    """

    node_id: str
    ip: str
    labels: dict[str, str]
    own_labels: dict[str, str]
    facts: Facts
    key_hash: bytes | None
    agent_version: str
    boot_id: str
    draining: bool
    instances_max: int
    lost_ms: int
    shaky_ms: int
    created_ms: int
    seen_ms: int

    @property
    def all_labels(self) -> dict[str, str]:
        """The agent's, with the operator's over them."""
        return {**self.labels, **self.own_labels}


DECODE_LABELS: Final = msgspec.json.Decoder(dict[str, str]).decode
DECODE_FACTS: Final = msgspec.json.Decoder(Facts).decode


def _node(row: Row) -> NodeRow:
    return NodeRow(row[0], row[1], DECODE_LABELS(row[2]), DECODE_LABELS(row[3]),
                   DECODE_FACTS(row[4]), row[5], row[6], row[7], bool(row[8]), *row[9:])


def every(db: apsw.Connection) -> list[NodeRow]:
    """All nodes, by id."""
    found: Iterator[Row] = sql.rows(db, SQL["all"])
    return [_node(row) for row in found]


def drained_agents(db: apsw.Connection) -> list[str]:
    """The agents of nodes that are drained, as workers."""
    return [AGENT_PREFIX + row.node_id for row in every(db) if row.draining]


def get(db: apsw.Connection, node_id: str) -> NodeRow | None:
    """One node, or None."""
    found: Iterator[Row] = sql.rows(db, SQL["get"], (node_id,))
    return next((_node(row) for row in found), None)


def put(tx: Tx, node: NodeRow, *what: str) -> None:
    """Write a node; an event for each thing that happened to it."""
    tx.db.execute(SQL["upsert"], (
        node.node_id, node.ip, ENCODE(node.labels).decode(), ENCODE(node.own_labels).decode(),
        ENCODE(node.facts).decode(), node.key_hash, node.agent_version, node.boot_id,
        int(node.draining), node.instances_max, node.lost_ms, node.shaky_ms, node.created_ms,
        node.seen_ms))
    for each in what:
        tell(tx, node.node_id, each)


def put_all(tx: Tx, changes: Iterable[tuple[NodeRow, str]]) -> None:
    """Write several nodes, each with what happened to it."""
    for node, what in changes:
        put(tx, node, what)


def delete(tx: Tx, node_id: str) -> None:
    """Forget a node."""
    tx.db.execute(SQL["delete"], (node_id,))
    tell(tx, node_id, "deleted")


def tell(tx: Tx, node_id: str, what: str) -> None:
    """An event of a node; no row changes."""
    tx.emit("node", node_id, what, tx.now_ms)


def alert(tx: Tx, node_id: str, peer: str) -> None:
    """Another machine gave itself this node's name."""
    tx.emit("alert", "node_taken", node_id, peer, tx.now_ms)
