"""plum trigger ..."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, moment_column, names, value_of, word
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
)
from plumd.sdk.client import NOTHING, Client, Json, JsonObject, object_of

BASE = "/v1/triggers"
STATES = ("started", "filtered", "failed")
def when(item: JsonObject) -> str:
    """What a trigger listens to, in short."""
    after = item.get("after")
    if isinstance(after, dict):
        return f"{word(after, 'on')} of {word(after, 'workflowId')}"
    return word(item, "path") or names(item, "topics")


COLUMNS = (
    column("ID", "triggerId"), column("NAME", "name"), column("KIND", "kind"),
    column("ENABLED", "enabled"), Column("WHEN", when),
    Column("STARTS", lambda item: word(item, "workflowId") or word(item, "defId")),
)
EVENTS = (
    column("EVENT", "eventId"), column("STATE", "state"), column("REASON", "reason"),
    column("DETAIL", "detail"),
    Column("STARTED", lambda item: word(item, "runId") or word(item, "taskId")),
    column("OUTCOME", "outcome"), moment_column("AT", "at"),
)


@click.group("trigger", cls=PlumGroup)
def group() -> None:
    """Triggers: what events start."""


def find(client: Client, reference: str) -> JsonObject:
    """The trigger that an id or a name means. Raises: ProblemError."""
    return named(client, BASE, "trigger", reference)


def path_of(found: JsonObject) -> str:
    """Where a trigger is."""
    return f"{BASE}/{found['triggerId']}"


def show(session: Session, found: JsonObject) -> None:
    """One trigger."""
    session.screen.item(found, "triggerId", [
        ("ID", word(found, "triggerId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("Kind", word(found, "kind")),
        ("Enabled", word(found, "enabled")), ("When", when(found)),
        ("Signature", word(found, "signature")), ("Secret", word(found, "secret")),
        ("Filter", word(found, "filter")), ("Starts workflow", word(found, "workflowId")),
        ("Starts task of", word(found, "defId")), ("Payload", value_of(found, "payload")),
        ("Event id", word(found, "eventId")), ("Description", word(found, "description"))])


@group.command("list")
@limit_option
@pass_session
def list_(session: Session, limit: int) -> None:
    """List triggers, newest first."""
    session.screen.items(session.client.items(BASE, limit=limit or None), "triggerId", COLUMNS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@pass_session
def get(session: Session, reference: str) -> None:
    """Show a trigger."""
    show(session, find(session.client, reference))


@group.command()
@file_option
@key_option
@pass_session
def create(session: Session, body: JsonObject, key: str | None) -> None:
    """Create a trigger from JSON; a webhook's secret is told once."""
    headers = {} if key is None else {"Idempotency-Key": key}
    show(session, object_of(session.client.request("POST", BASE, body, headers=headers)))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@file_option
@click.option("--if-version", type=click.IntRange(min=1), metavar="N",
              help="Only if this is the current version; else exit with 5.")
@pass_session
def update(session: Session, reference: str, body: JsonObject, if_version: int | None) -> None:
    """Write a trigger anew from JSON."""
    found = find(session.client, reference)
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    show(session, object_of(session.client.request("PUT", path_of(found), body, headers=headers)))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@payload_option
@pass_session
def test(session: Session, reference: str, payload: Json) -> None:
    """Say what a trigger would do with an event, an object with `data`; nothing is started."""
    found = find(session.client, reference)
    event: Json = {} if payload is NOTHING else payload
    made = object_of(session.client.request("POST", path_of(found) + "/test", {"event": event}))
    session.screen.item(made, "wanted", [
        ("Wanted", word(made, "wanted")), ("Payload", value_of(made, "payload")),
        ("Error", word(made, "error"))])


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.option("--state", type=click.Choice(STATES))
@limit_option
@pass_session
def events(session: Session, reference: str, state: str | None, limit: int) -> None:
    """List what became of the events, newest first."""
    found = find(session.client, reference)
    session.screen.items(session.client.items(path_of(found) + "/events", {"state": state},
                                              limit=limit or None), "eventId", EVENTS)


def act(session: Session, references: tuple[str, ...], action: str) -> None:
    """POST ?action=... on triggers."""
    def carry_out(reference: str) -> None:
        show(session, session.client.act(path_of(find(session.client, reference)), action))

    each(session, references, carry_out)


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Let triggers start nothing."""
    act(session, references, "pause")


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Let triggers go on with what happens from now on."""
    act(session, references, "resume")


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete triggers; what they started goes on."""
    def remove(reference: str) -> None:
        session.client.request("DELETE", path_of(find(session.client, reference)))
        session.screen.say(f"deleted {reference}")

    each(session, references, remove)
