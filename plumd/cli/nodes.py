"""plum node ..."""

from __future__ import annotations

from typing import Final

import click

from plumd.cli.screen import Column, column, moment, moment_column, pairs, word
from plumd.cli.session import PlumGroup, Session, each, pass_session, read_pairs
from plumd.sdk.client import Json, JsonObject, part

BASE: Final = "/v1/nodes"
COLUMNS: Final = (
    column("ID", "nodeId"), column("HEALTH", "health"), column("IP", "ip"),
    column("INSTANCES", "instances"), Column("LABELS", lambda item: pairs(item, "labels")),
    moment_column("SEEN", "lastSeen"),
)


@click.group("node", cls=PlumGroup)
def group() -> None:
    """Nodes: the machines that run instances and processes."""


def card(node: JsonObject) -> list[tuple[str, str]]:
    """A node's rows."""
    facts = node.get("facts")
    known = facts if isinstance(facts, dict) else {}
    return [
        ("node", word(node, "nodeId")), ("health", word(node, "health")), ("ip", word(node, "ip")),
        ("labels", pairs(node, "labels")), ("instances", word(node, "instances")),
        ("instances at most", word(node, "instancesMax") if node.get("instancesMax") else ""),
        ("CPUs", word(known, "cpus") if known.get("cpus") else ""),
        ("CPU %", word(known, "cpuPercent") if known.get("cpus") else ""),
        ("load", word(known, "load1") if known.get("cpus") else ""),
        ("memory bytes", word(known, "memTotal") if known.get("memTotal") else ""),
        ("memory available", word(known, "memAvailable") if known.get("memTotal") else ""),
        ("disk free", word(known, "diskFree") if known.get("diskTotal") else ""),
        ("system", " ".join(filter(None, (word(known, "os"), word(known, "arch"))))),
        ("agent", word(node, "agentVersion")), ("seen", moment(node, "lastSeen")),
        ("lost", moment(node, "lostAt")),
    ]


@group.command("list")
@click.option("--health", help="Only Healthy, Draining, Unhealthy or Offline ones.")
@click.option("--label", metavar="KEY=VALUE", help="Only with this label.")
@pass_session
def list_nodes(session: Session, health: str | None, label: str | None) -> None:
    """List nodes."""
    session.screen.items(session.client.items(BASE, {"health": health, "label": label}),
                         "nodeId", COLUMNS)


@group.command("get")
@click.argument("node_id", metavar="ID")
@pass_session
def get_node(session: Session, node_id: str) -> None:
    """Show a node with what it has."""
    node = session.client.get_object(f"{BASE}/{part(node_id)}")
    session.screen.item(node, "nodeId", card(node))


def act(session: Session, node_ids: tuple[str, ...], action: str, said: str) -> None:
    """An action on several nodes."""
    def one(node_id: str) -> None:
        session.client.act(f"{BASE}/{part(node_id)}", action)
        session.screen.say(f"{node_id}: {said}")

    each(session, node_ids, one)


@group.command("drain")
@click.argument("node_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def drain(session: Session, node_ids: tuple[str, ...]) -> None:
    """Move instances away and give it no others, nor tasks."""
    act(session, node_ids, "drain", "draining")


@group.command("undrain")
@click.argument("node_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def undrain(session: Session, node_ids: tuple[str, ...]) -> None:
    """Let it take instances and tasks again."""
    act(session, node_ids, "undrain", "takes instances again")


@group.command("label")
@click.argument("node_id", metavar="ID")
@click.argument("labels", metavar="[KEY=VALUE]...", nargs=-1, callback=read_pairs)
@click.option("--instances-max", type=click.IntRange(min=0), help="How many instances at most; "
              "0 = any number.")
@pass_session
def label(session: Session, node_id: str, labels: dict[str, str],
          instances_max: int | None) -> None:
    """Set the operator's labels, which lie over the agent's; without any they are cleared."""
    body: dict[str, Json] = {"labels": dict(labels)}
    if instances_max is not None:
        body["instancesMax"] = instances_max
        if not labels:
            del body["labels"]
    answer = session.client.request("PATCH", f"{BASE}/{part(node_id)}", body)
    node: JsonObject = answer.json()
    session.screen.item(node, "nodeId", card(node))


@group.command("delete")
@click.argument("node_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, node_ids: tuple[str, ...]) -> None:
    """Forget nodes that nothing is on; their names are free."""
    def one(node_id: str) -> None:
        session.client.request("DELETE", f"{BASE}/{part(node_id)}")
        session.screen.say(f"{node_id}: deleted")

    each(session, node_ids, one)
