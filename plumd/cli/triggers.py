"""plum trigger ..."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, moment_column, names, value_of, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    limit_option,
    pass_session,
    payload_option,
)
from plumd.cli.things import Things, reference_argument, references_argument
from plumd.sdk.client import NOTHING, Json, JsonObject, object_of

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


TRIGGERS = Things(group, "trigger", "triggers", BASE, "triggerId", COLUMNS, show)
TRIGGERS.add_commands(
    create="Create a trigger from JSON; a webhook's secret is told once.",
    update="Write a trigger anew from JSON.",
    delete="Delete triggers; what they started goes on.")


@group.command()
@reference_argument
@payload_option
@pass_session
def test(session: Session, reference: str, payload: Json) -> None:
    """Say what a trigger would do with an event, an object with `data`; nothing is started."""
    path = TRIGGERS.path(session.client, reference) + "/test"
    event: Json = {} if payload is NOTHING else payload
    made = object_of(session.client.request("POST", path, {"event": event}))
    session.screen.item(made, "wanted", [
        ("Wanted", word(made, "wanted")), ("Payload", value_of(made, "payload")),
        ("Error", word(made, "error"))])


@group.command()
@reference_argument
@click.option("--state", type=click.Choice(STATES))
@limit_option
@pass_session
def events(session: Session, reference: str, state: str | None, limit: int) -> None:
    """List what became of the events, newest first."""
    TRIGGERS.show_below(session, reference, "events", "eventId", EVENTS, limit, state)


@group.command()
@references_argument
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Let triggers start nothing."""
    TRIGGERS.act_on_each(session, references, "pause")


@group.command()
@references_argument
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Let triggers go on with what happens from now on."""
    TRIGGERS.act_on_each(session, references, "resume")
