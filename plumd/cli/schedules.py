"""plum schedule ... and plum calendar ..."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import click

from plumd.cli.screen import Column, column, moment, moment_column, names, table, value_of, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    file_option,
    key_option,
    limit_option,
    named,
    pass_session,
    payload_option,
    read_body,
)
from plumd.sdk.client import NOTHING, Client, Json, JsonObject, object_of, part

BASE = "/v1/schedules"
CALENDARS = "/v1/calendars"
FIRE_STATES = ("queued", "started", "skipped", "missed", "failed")


def rule(item: JsonObject) -> str:
    """When a schedule fires, in short."""
    if item.get("cron") is not None:
        return f"{word(item, 'cron')} {word(item, 'timeZone')}"
    if item.get("everySec") is not None:
        return f"every {word(item, 'everySec')} s"
    return f"once {moment(item, 'at')}"


def running(item: JsonObject) -> str:
    """How many of what it started go on; nothing for none."""
    found = item.get("running")
    return str(len(found)) if isinstance(found, list) and found else ""


COLUMNS = (
    column("ID", "scheduleId"), column("NAME", "name"), Column("WHEN", rule),
    column("ENABLED", "enabled"), moment_column("NEXT", "nextAt"), moment_column("LAST", "lastAt"),
    Column("RUNNING", running),
)
SLOTS = (
    column("SLOT", "local"), column("DST", "dst"), column("BLACKOUT", "blackout"),
    moment_column("STARTS", "startsAt"),
)
FIRES = (
    column("SLOT", "local"), column("KIND", "kind"), column("STATE", "state"),
    column("REASON", "reason"), column("DETAIL", "detail"), column("COUNT", "count"),
    column("LATE", "lateSec"),
    Column("STARTED", lambda item: word(item, "runId") or word(item, "taskId")),
    column("OUTCOME", "outcome"),
)
DAYS = (column("NAME", "name"), column("VERSION", "version"),
        Column("DAYS", lambda item: names(item, "days")), moment_column("UPDATED", "updatedAt"))


@click.group("schedule", cls=PlumGroup)
def group() -> None:
    """Schedules: what is started when."""


@click.group("calendar", cls=PlumGroup)
def calendars() -> None:
    """Calendars: days on which schedules start nothing."""


def read_moment(context: click.Context, parameter: click.Parameter,
                text: str | None) -> int | None:
    """Unix milliseconds, or a local date and time as 2026-03-29T02:30."""
    del context
    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        raise click.BadParameter("a time is written 2026-03-29T02:30, with +02:00 or Z where it "
                                 "is not local, or in Unix milliseconds",
                                 param=parameter) from None


def read_draft(context: click.Context, parameter: click.Parameter,
               name: str | None) -> JsonObject | None:
    """A JSON object from a file, if one is named."""
    return None if name is None else read_body(context, parameter, name)


def find(client: Client, reference: str) -> JsonObject:
    """The schedule that an id or a name means. Raises: ProblemError."""
    return named(client, BASE, "schedule", reference)


def path_of(found: JsonObject) -> str:
    """Where a schedule is."""
    return f"{BASE}/{found['scheduleId']}"


def show(session: Session, found: JsonObject) -> None:
    """One schedule."""
    session.screen.item(found, "scheduleId", [
        ("ID", word(found, "scheduleId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("Enabled", word(found, "enabled")),
        ("When", rule(found)), ("Starts workflow", word(found, "workflowId")),
        ("Starts task of", word(found, "defId")), ("DST gap", word(found, "dstGap")),
        ("DST overlap", word(found, "dstOverlap")), ("Overlap", word(found, "overlapPolicy")),
        ("Missed", word(found, "missedPolicy")), ("Jitter", word(found, "jitterSec")),
        ("Calendars", names(found, "calendars")), ("From", moment(found, "startAt")),
        ("Until", moment(found, "endAt")), ("Next", moment(found, "nextAt")),
        ("Last", moment(found, "lastAt")), ("Running", names(found, "running")),
        ("Queued", word(found, "queued")), ("Payload", value_of(found, "payload")),
        ("Description", word(found, "description"))])


def act(session: Session, reference: str, action: str, body: JsonObject | None = None,
        headers: Mapping[str, str] | None = None) -> JsonObject:
    """POST ?action=... on a schedule."""
    found = find(session.client, reference)
    return object_of(session.client.request("POST", path_of(found), body, query={"action": action},
                                            headers=headers))


@group.command("list")
@limit_option
@pass_session
def list_(session: Session, limit: int) -> None:
    """List schedules, newest first."""
    session.screen.items(session.client.items(BASE, limit=limit or None), "scheduleId", COLUMNS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@pass_session
def get(session: Session, reference: str) -> None:
    """Show a schedule."""
    show(session, find(session.client, reference))


@group.command()
@file_option
@key_option
@pass_session
def create(session: Session, body: JsonObject, key: str | None) -> None:
    """Create a schedule from JSON."""
    headers = {} if key is None else {"Idempotency-Key": key}
    show(session, object_of(session.client.request("POST", BASE, body, headers=headers)))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@file_option
@click.option("--if-version", type=click.IntRange(min=1), metavar="N",
              help="Only if this is the current version; else exit with 5.")
@pass_session
def update(session: Session, reference: str, body: JsonObject, if_version: int | None) -> None:
    """Write a schedule anew from JSON."""
    found = find(session.client, reference)
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    show(session, object_of(session.client.request("PUT", path_of(found), body, headers=headers)))


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete schedules; what they started goes on."""
    def remove(reference: str) -> None:
        session.client.request("DELETE", path_of(find(session.client, reference)))
        session.screen.say(f"deleted {reference}")

    each(session, references, remove)


@group.command("next")
@click.argument("reference", metavar="NAME|ID", required=False)
@click.option("-f", "--file", "body", metavar="FILE", callback=read_draft,
              help="Of a body that is not saved; - for stdin.")
@click.option("--count", type=click.IntRange(1, 500), default=10, show_default=True)
@click.option("--from", "from_", metavar="TIME", callback=read_moment, help="Default: now.")
@pass_session
def next_(session: Session, reference: str | None, body: JsonObject | None, count: int,
          from_: int | None) -> None:
    """Show the next slots, with what daylight saving makes of them."""
    query = {"count": str(count), "from": None if from_ is None else str(from_)}
    if (reference is None) == (body is None):
        raise click.UsageError("name a schedule, or give a body by --file")
    if body is not None:
        slots: Json = session.client.request("POST", f"{BASE}/preview", body, query=query).json()
    else:
        found = find(session.client, str(reference))
        slots = session.client.get(f"{path_of(found)}/preview", query)
    shown = slots if isinstance(slots, list) else []
    session.screen.items((one for one in shown if isinstance(one, dict)), "at", SLOTS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.option("--state", type=click.Choice(FIRE_STATES, case_sensitive=False))
@limit_option
@pass_session
def fires(session: Session, reference: str, state: str | None, limit: int) -> None:
    """Show what became of the slots, newest first."""
    found = find(session.client, reference)
    session.screen.items(session.client.items(f"{path_of(found)}/fires", {"state": state},
                                              limit=limit or None), "slot", FIRES)


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Start nothing any more; what is queued is dropped, what runs goes on."""
    each(session, references, lambda one: show(session, act(session, one, "pause")))


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Go on with the next slot."""
    each(session, references, lambda one: show(session, act(session, one, "resume")))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@payload_option
@key_option
@pass_session
def trigger(session: Session, reference: str, payload: Json, key: str | None) -> int:
    """Start it now, whatever goes on; the payload lies over the schedule's."""
    body: JsonObject = {} if payload is NOTHING else {"payload": payload}
    fire = act(session, reference, "trigger", body,
               {} if key is None else {"Idempotency-Key": key})
    ident = "runId" if fire.get("runId") else "taskId"
    session.screen.items(iter([fire]), ident, FIRES)
    return 0 if fire.get("state") == "started" else 1


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.option("--from", "from_", metavar="TIME", callback=read_moment, required=True)
@click.option("--to", metavar="TIME", callback=read_moment, required=True)
@click.option("--overlap", type=click.Choice(("allow", "queue")),
              help="All at once, or one after another; default as the schedule does.")
@key_option
@pass_session
def backfill(session: Session, reference: str, from_: int, to: int, overlap: str | None,
             key: str | None) -> None:
    """Start the slots of a past range for which nothing was started."""
    body: JsonObject = {"from": from_, "to": to}
    if overlap is not None:
        body["overlapPolicy"] = overlap
    done = act(session, reference, "backfill", body,
               {} if key is None else {"Idempotency-Key": key})
    if session.screen.output == "json":
        session.screen.json(done)
    else:
        session.screen.write(f"{word(done, 'queued')} of {word(done, 'slots')} slots queued")


# ---------------------------------------------------------------- calendars

@calendars.command("list")
@limit_option
@pass_session
def list_calendars(session: Session, limit: int) -> None:
    """List calendars by name."""
    found = session.client.items(CALENDARS, limit=limit or None)
    session.screen.items(found, "name", DAYS)


@calendars.command("get")
@click.argument("name", metavar="NAME")
@pass_session
def get_calendar(session: Session, name: str) -> None:
    """Show a calendar."""
    found = session.client.get_object(f"{CALENDARS}/{part(name)}")
    if session.screen.output == "table":
        session.screen.show(table([found], DAYS))
    else:
        session.screen.item(found, "name", [])


@calendars.command("put")
@click.argument("name", metavar="NAME")
@click.argument("days", metavar="DAY...", nargs=-1)
@click.option("--description", metavar="TEXT", default="")
@pass_session
def put_calendar(session: Session, name: str, days: tuple[str, ...], description: str) -> None:
    """Write a calendar: 2026-12-25, --12-25 (behind --, every year), 2026-12-24/2027-01-02."""
    body: JsonObject = {"days": list(days), "description": description}
    session.client.request("PUT", f"{CALENDARS}/{part(name)}", body)
    session.screen.say(f"wrote {name}")


@calendars.command("delete")
@click.argument("all_names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def delete_calendars(session: Session, all_names: tuple[str, ...]) -> None:
    """Delete calendars that no schedule uses."""
    def remove(name: str) -> None:
        session.client.request("DELETE", f"{CALENDARS}/{part(name)}")
        session.screen.say(f"deleted {name}")

    each(session, all_names, remove)
