"""plum device ..."""

from __future__ import annotations

import json
import time
from typing import Final

import click

from plumd.cli.locks import owner_of, owner_option, token_argument, ttl_option, wait_option
from plumd.cli.screen import Column, column, line, moment, moment_column, word
from plumd.cli.session import PlumGroup, Session, each, limit_option, pass_session, read_pairs
from plumd.sdk.client import Json, JsonObject, object_of, part
from plumd.sdk.wire import ANSWER_S, SILENCE_S, Ask, Frames

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
@click.option("--token", type=click.IntRange(min=1), metavar="N", help="Of a lease on the device.")
@pass_session
def operate(session: Session, device_id: str, operations: dict[str, str],
            token: int | None) -> None:
    """Have a device carry out operations; ends when it says that it has."""
    session.client.operate(device_id, operations, token=token)
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


# ---------------------------------------------------------------- over time

SPANS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
POINTS: Final = (
    moment_column("AT", "at"), column("COUNT", "count"), column("MIN", "min"),
    column("MEAN", "mean"), column("MAX", "max"), column("LAST", "last"),
)


def read_span(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """`90s`, `15m`, `6h`, `30d` in seconds."""
    del context
    if text is None:
        return None
    if text[-1:] not in SPANS or not text[:-1].isdigit():
        raise click.BadParameter("write 90s, 15m, 6h or 30d", param=parameter)
    return int(text[:-1]) * SPANS[text[-1]]


@group.command("history")
@click.argument("device_id", metavar="ID")
@click.argument("state", metavar="STATE")
@click.option("--last", metavar="SPAN", callback=read_span, default="1d", show_default=True,
              help="So far back: 90s, 15m, 6h, 30d.")
@click.option("--bucket", metavar="SPAN", callback=read_span, help="How long a stretch is.")
@pass_session
def history(session: Session, device_id: str, state: str, last: int,
            bucket: int | None) -> None:
    """Show min, mean and max of a state over time."""
    now_ms = time.time_ns() // 1_000_000 + 1
    found = session.client.get_object(f"{BASE}/history", {
        "resourceId": device_id, "state": state, "from": now_ms - last * 1000, "to": now_ms,
        "bucketSec": bucket})
    points = found.get("points")
    session.screen.items([one for one in (points if isinstance(points, list) else ())
                          if isinstance(one, dict)], "at", POINTS)


@group.command("retention")
@click.argument("device_id", metavar="ID")
@click.argument("states", metavar="STATE=MINUTES,HOURS...", nargs=-1, callback=read_pairs)
@pass_session
def retention(session: Session, device_id: str, states: dict[str, str]) -> None:
    """Show how many days the minutes and hours of states are kept, or say it for all of them."""
    path = f"{BASE}/{part(device_id)}/retention"
    if not states:
        found = session.client.get_object(path)
    else:
        given: JsonObject = {}
        for name, text in states.items():
            try:
                minutes, hours = map(float, text.split(","))
            except ValueError:
                raise click.BadParameter(f"{name} is not written {name}=7,365") from None
            given[name] = {"minutesDays": minutes, "hoursDays": hours}
        found = object_of(session.client.request("PUT", path, {"states": given}))
    kept, others = found.get("states"), found.get("others")
    rows = [(line(name), days(one)) for name, one in (
        kept.items() if isinstance(kept, dict) else ())]
    session.screen.item(found, "resourceId", [*rows, ("others", days(others))])


def days(keep: Json) -> str:
    """`7 days by the minute, 365 by the hour`"""
    if not isinstance(keep, dict):
        return ""
    return f"{word(keep, 'minutesDays')} days by the minute, {word(keep, 'hoursDays')} by the hour"


@group.command("watch")
@click.argument("device_id", metavar="ID")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@pass_session
def watch(session: Session, device_id: str, count: int | None) -> None:
    """Show a device's states, and then every change, until it is removed."""
    shown = 0
    frames = Frames()
    ask = Ask("GET", f"{BASE}/{part(device_id)}/stream", headers={"Accept": "text/event-stream"})
    for chunk in session.client.chunks(ask, SILENCE_S):
        for _, name, data in frames.feed(chunk):
            if name != "states":
                return
            said: Json = json.loads(data)
            states = said.get("states") if isinstance(said, dict) else None
            for key, state in (states.items() if isinstance(states, dict) else ()):
                value = state.get("value") if isinstance(state, dict) else None
                if session.screen.output == "json":
                    session.screen.json({"state": key, "value": value}, indent=None)
                else:
                    session.screen.write(f"{line(key)} {line(str(value))}")
                shown += 1
                if shown == count:
                    return


# ---------------------------------------------------------------- for oneself

def lease_path(device_id: str) -> str:
    """Where the lease of a device is."""
    return f"{BASE}/{part(device_id)}/lease"


def show_lease(session: Session, lease: JsonObject) -> None:
    """The token, or all of it."""
    if session.screen.output == "table":
        session.screen.write(word(lease, "token"))
    else:
        session.screen.item(lease, "token", ())


@group.command("acquire")
@click.argument("device_id", metavar="ID")
@owner_option
@ttl_option
@wait_option
@pass_session
def acquire(session: Session, device_id: str, owner: str | None, ttl: float,
            wait: float | None) -> None:
    """Have a device for oneself and print the token; exit code 5: another has it."""
    seconds = min(60, round(wait or 0))
    show_lease(session, object_of(session.client.request(
        "POST", lease_path(device_id), {"owner": owner_of(owner), "ttlSec": ttl},
        query={"action": "acquire"}, headers={"Prefer": f"wait={seconds}"} if seconds else {},
        timeout_s=ANSWER_S + seconds)))


@group.command("renew")
@click.argument("device_id", metavar="ID")
@token_argument
@pass_session
def renew(session: Session, device_id: str, token: int) -> None:
    """Keep a device for another time; exit code 5: it was lost."""
    show_lease(session, object_of(session.client.request(
        "POST", lease_path(device_id), {"token": token}, query={"action": "renew"})))


@group.command("release")
@click.argument("device_id", metavar="ID")
@token_argument
@pass_session
def release(session: Session, device_id: str, token: int) -> None:
    """Give a device up."""
    session.client.request("POST", lease_path(device_id), {"token": token},
                           query={"action": "release"})
    session.screen.say(f"released {device_id}")


@group.command("take-away")
@click.argument("device_id", metavar="ID")
@pass_session
def take_away(session: Session, device_id: str) -> None:
    """Take a device away from whoever has it."""
    session.client.request("DELETE", lease_path(device_id))
    session.screen.say(f"nobody has {device_id} now")
