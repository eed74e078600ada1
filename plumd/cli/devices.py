"""plum device ..."""

from __future__ import annotations

from typing import Final

import click

from plumd.cli.screen import Column, column, line, moment, moment_column, word
from plumd.cli.session import PlumGroup, Session, each, limit_option, pass_session, read_pairs
from plumd.sdk.client import JsonObject, part

BASE: Final = "/v1/resources"
COLUMNS: Final = (
    column("ID", "resourceId"), column("TYPE", "type"), column("HEALTH", "health"),
    column("NODE", "nodeId"), column("TRANSPORT", "transport"), moment_column("SEEN", "lastSeen"),
)


@click.group("device", cls=PlumGroup)
def group() -> None:
    """Devices: their states, and operations on them."""


def states_of(item: JsonObject) -> str:
    """`power=50, speed=3`"""
    states = item.get("states")
    return ", ".join(f"{line(name)}={line(str(value))}" for name, value in (
        states.items() if isinstance(states, dict) else ()))


REPORTS: Final = (moment_column("REPORTED", "timestamp"), moment_column("RECEIVED", "receivedAt"),
                  Column("STATES", states_of))


def described(item: JsonObject, field: str) -> list[tuple[str, JsonObject]]:
    """(name, description) of states or operations."""
    found = item.get(field)
    return [(word(one, "name"), one) for one in (found if isinstance(found, list) else ())
            if isinstance(one, dict)]


def operation_text(one: JsonObject) -> str:
    """`int 0 .. 100 %`"""
    bounds = f"{word(one, 'min')} .. {word(one, 'max')}"
    return " ".join(filter(None, (word(one, "type"), bounds if bounds != " .. " else "",
                                  word(one, "unit"))))


@group.command("list")
@click.option("--node", help="Only of this node.")
@click.option("--type", "kind", help="Only of this type.")
@click.option("--health", help="Only Healthy or Unhealthy ones.")
@pass_session
def list_devices(session: Session, node: str | None, kind: str | None,
                 health: str | None) -> None:
    """List devices."""
    found = session.client.items(BASE, {"nodeId": node, "type": kind, "health": health})
    session.screen.items(found, "resourceId", COLUMNS)


@group.command("get")
@click.argument("device_id", metavar="ID")
@pass_session
def get_device(session: Session, device_id: str) -> None:
    """Show a device with its newest states and what can be done with it."""
    device = session.client.get_object(f"{BASE}/{part(device_id)}")
    units = {name: word(one, "unit") for name, one in described(device, "stateDesc")}
    states = device.get("states")
    rows = [("ID", word(device, "resourceId")), ("Type", word(device, "type")),
            ("Health", word(device, "health")), ("Node", word(device, "nodeId")),
            ("Transport", word(device, "transport")), ("URL", word(device, "url")),
            ("Registered", moment(device, "registeredAt")), ("Seen", moment(device, "lastSeen"))]
    for name, state in (states.items() if isinstance(states, dict) else ()):
        if isinstance(state, dict):
            rows.append((line(name), f"{word(state, 'value')} {units.get(line(name), '')}".strip()))
    for name, one in described(device, "opDesc"):
        rows.append((f"op {name}", operation_text(one) or "any"))
    session.screen.item(device, "resourceId", rows)


@group.command()
@click.argument("device_id", metavar="ID")
@limit_option
@pass_session
def states(session: Session, device_id: str, limit: int) -> None:
    """List what a device reported, newest first."""
    found = session.client.items(f"{BASE}/states", {"resourceId": device_id}, limit=limit or None)
    session.screen.items(found, "timestamp", REPORTS)


@group.command("op")
@click.argument("device_id", metavar="ID")
@click.argument("operations", metavar="NAME=VALUE...", nargs=-1, required=True,
                callback=read_pairs)
@pass_session
def operate(session: Session, device_id: str, operations: dict[str, str]) -> None:
    """Have a device carry out operations; ends when it says that it has."""
    session.client.operate(device_id, operations)
    session.screen.say(f"done by {device_id}")


@group.command("delete")
@click.argument("device_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete_devices(session: Session, device_ids: tuple[str, ...]) -> None:
    """Forget devices with all their states."""
    def remove(device_id: str) -> None:
        session.client.request("DELETE", f"{BASE}/{part(device_id)}")
        session.screen.say(f"deleted {device_id}")

    each(session, device_ids, remove)
