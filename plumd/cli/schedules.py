"""plum schedule ... and plum calendar ..."""

from __future__ import annotations

from datetime import datetime

import click

from plumd.cli.screen import Column, column, moment, moment_column, names, table, value_of, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    key_option,
    limit_option,
    pass_session,
    payload_option,
    read_optional,
)
from plumd.cli.things import Things, reference_argument, references_argument
from plumd.sdk.client import NOTHING, Json, JsonObject, part

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


def last(item: JsonObject) -> str:
    """When its latest slot was dealt with, those by hand too, and what became of it."""
    fire = item.get("lastFire")
    if not isinstance(fire, dict):
        return ""
    return f"{moment(fire, 'at')} {word(fire, 'outcome') or word(fire, 'state')}"


COLUMNS = (
    column("ID", "scheduleId"), column("NAME", "name"), Column("WHEN", rule),
    column("ENABLED", "enabled"), moment_column("NEXT", "nextAt"), Column("LAST", last),
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
        ("Last", last(found)), ("Running", names(found, "running")),
        ("Queued", word(found, "queued")), ("Payload", value_of(found, "payload")),
        ("Description", word(found, "description"))])


SCHEDULES = Things(group, "schedule", "schedules", BASE, "scheduleId", COLUMNS, show)
SCHEDULES.add_commands(
    create="Create a schedule from JSON.",
    update="Write a schedule anew from JSON.",
    delete="Delete schedules; what they started goes on.")


@group.command("next")
@click.argument("reference", metavar="NAME|ID", required=False)
@click.option("-f", "--file", "body", metavar="FILE", callback=read_optional,
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
        found = SCHEDULES.find(session.client, str(reference))
        slots = session.client.get(f"{SCHEDULES.path_of(found)}/preview", query)
    shown = slots if isinstance(slots, list) else []
    session.screen.items((one for one in shown if isinstance(one, dict)), "at", SLOTS)


@group.command()
@reference_argument
@click.option("--state", type=click.Choice(FIRE_STATES, case_sensitive=False))
@limit_option
@pass_session
def fires(session: Session, reference: str, state: str | None, limit: int) -> None:
    """Show what became of the slots, newest first."""
    SCHEDULES.show_below(session, reference, "fires", "slot", FIRES, limit, state)


@group.command()
@references_argument
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Start nothing any more; what is queued is dropped, what runs goes on."""
    SCHEDULES.act_on_each(session, references, "pause")


@group.command()
@references_argument
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Go on with the next slot."""
    SCHEDULES.act_on_each(session, references, "resume")


@group.command()
@reference_argument
@payload_option
@key_option
@pass_session
def trigger(session: Session, reference: str, payload: Json, key: str | None) -> int:
    """Start it now, whatever goes on; the payload lies over the schedule's."""
    body: JsonObject = {} if payload is NOTHING else {"payload": payload}
    fire = SCHEDULES.act(session, reference, "trigger", body,
               {} if key is None else {"Idempotency-Key": key})
    ident = "runId" if fire.get("runId") else "taskId"
    session.screen.items(iter([fire]), ident, FIRES)
    return 0 if fire.get("state") == "started" else 1


@group.command()
@reference_argument
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
    done = SCHEDULES.act(session, reference, "backfill", body,
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
