"""plum webhook ..."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, moment_column, names, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    limit_option,
    pass_session,
)
from plumd.cli.things import Things, reference_argument, references_argument
from plumd.sdk.client import JsonObject, part

BASE = "/v1/webhooks"
STATES = ("pending", "delivered", "failed")
COLUMNS = (
    column("ID", "webhookId"), column("NAME", "name"), column("URL", "url"),
    Column("TOPICS", lambda item: names(item, "topics")), column("ENABLED", "enabled"),
    column("WAITING", "waiting"),
)
DELIVERIES = (
    column("EVENT", "seq"), column("TOPIC", "topic"), column("STATE", "state"),
    column("ATTEMPTS", "attempts"), column("STATUS", "status"), column("DETAIL", "detail"),
    moment_column("NEXT", "nextAt"), moment_column("AT", "createdAt"),
)


@click.group("webhook", cls=PlumGroup)
def group() -> None:
    """Webhooks that go out: who is told of events."""


def show(session: Session, found: JsonObject) -> None:
    """One webhook."""
    session.screen.item(found, "webhookId", [
        ("ID", word(found, "webhookId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("URL", word(found, "url")),
        ("Enabled", word(found, "enabled")), ("Topics", names(found, "topics")),
        ("Filter", word(found, "filter")), ("Secret", word(found, "secret")),
        ("Headers", names(found, "headers")), ("Timeout", word(found, "timeoutSec")),
        ("Attempts", word(found, "maxAttempts")), ("Waiting", word(found, "waiting")),
        ("At most", word(found, "maxWaiting")), ("Dropped", word(found, "dropped")),
        ("Description", word(found, "description"))])


HOOKS = Things(group, "webhook", "webhooks", BASE, "webhookId", COLUMNS, show)
HOOKS.add_commands(
    create="Create a webhook from JSON; its secret is told once.",
    update="Write a webhook anew from JSON.",
    delete="Delete webhooks; nothing more is delivered.")


@group.command()
@reference_argument
@click.option("--state", type=click.Choice(STATES))
@limit_option
@pass_session
def deliveries(session: Session, reference: str, state: str | None, limit: int) -> None:
    """List what became of the deliveries, newest first."""
    HOOKS.show_below(session, reference, "deliveries", "seq", DELIVERIES, limit, state)


@group.command()
@reference_argument
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@pass_session
def retry(session: Session, reference: str, events: tuple[str, ...]) -> None:
    """Deliver events once more, by their numbers."""
    path = HOOKS.path(session.client, reference)

    def again(event: str) -> None:
        session.client.act(f"{path}/deliveries/{part(event)}", "retry")
        session.screen.say(f"{event} is delivered again")

    each(session, events, again)


@group.command()
@references_argument
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Note nothing and deliver nothing."""
    HOOKS.act_on_each(session, references, "pause")


@group.command()
@references_argument
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Let webhooks go on with what happens from now on."""
    HOOKS.act_on_each(session, references, "resume")
