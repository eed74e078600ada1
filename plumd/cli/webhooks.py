"""plum webhook ..."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, moment_column, names, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    file_option,
    key_option,
    limit_option,
    named,
    pass_session,
)
from plumd.sdk.client import Client, JsonObject, object_of, part

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


def find(client: Client, reference: str) -> JsonObject:
    """The webhook that an id or a name means. Raises: ProblemError."""
    return named(client, BASE, "webhook", reference)


def path_of(found: JsonObject) -> str:
    """Where a webhook is."""
    return f"{BASE}/{found['webhookId']}"


def show(session: Session, found: JsonObject) -> None:
    """One webhook."""
    session.screen.item(found, "webhookId", [
        ("ID", word(found, "webhookId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("URL", word(found, "url")),
        ("Enabled", word(found, "enabled")), ("Topics", names(found, "topics")),
        ("Filter", word(found, "filter")), ("Secret", word(found, "secret")),
        ("Headers", names(found, "headers")), ("Timeout", word(found, "timeoutSec")),
        ("Attempts", word(found, "maxAttempts")), ("Waiting", word(found, "waiting")),
        ("Description", word(found, "description"))])


@group.command("list")
@limit_option
@pass_session
def list_(session: Session, limit: int) -> None:
    """List webhooks, newest first."""
    session.screen.items(session.client.items(BASE, limit=limit or None), "webhookId", COLUMNS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@pass_session
def get(session: Session, reference: str) -> None:
    """Show a webhook."""
    show(session, find(session.client, reference))


@group.command()
@file_option
@key_option
@pass_session
def create(session: Session, body: JsonObject, key: str | None) -> None:
    """Create a webhook from JSON; its secret is told once."""
    headers = {} if key is None else {"Idempotency-Key": key}
    show(session, object_of(session.client.request("POST", BASE, body, headers=headers)))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@file_option
@click.option("--if-version", type=click.IntRange(min=1), metavar="N",
              help="Only if this is the current version; else exit with 5.")
@pass_session
def update(session: Session, reference: str, body: JsonObject, if_version: int | None) -> None:
    """Write a webhook anew from JSON."""
    found = find(session.client, reference)
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    show(session, object_of(session.client.request("PUT", path_of(found), body, headers=headers)))


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.option("--state", type=click.Choice(STATES))
@limit_option
@pass_session
def deliveries(session: Session, reference: str, state: str | None, limit: int) -> None:
    """List what became of the deliveries, newest first."""
    found = find(session.client, reference)
    session.screen.items(session.client.items(path_of(found) + "/deliveries", {"state": state},
                                              limit=limit or None), "seq", DELIVERIES)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@pass_session
def retry(session: Session, reference: str, events: tuple[str, ...]) -> None:
    """Deliver events once more, by their numbers."""
    path = path_of(find(session.client, reference))

    def again(event: str) -> None:
        session.client.act(f"{path}/deliveries/{part(event)}", "retry")
        session.screen.say(f"{event} is delivered again")

    each(session, events, again)


def act(session: Session, references: tuple[str, ...], action: str) -> None:
    """POST ?action=... on webhooks."""
    def carry_out(reference: str) -> None:
        show(session, session.client.act(path_of(find(session.client, reference)), action))

    each(session, references, carry_out)


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def pause(session: Session, references: tuple[str, ...]) -> None:
    """Note nothing and deliver nothing."""
    act(session, references, "pause")


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def resume(session: Session, references: tuple[str, ...]) -> None:
    """Let webhooks go on with what happens from now on."""
    act(session, references, "resume")


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete webhooks; nothing more is delivered."""
    def remove(reference: str) -> None:
        session.client.request("DELETE", path_of(find(session.client, reference)))
        session.screen.say(f"deleted {reference}")

    each(session, references, remove)
