"""plum def ..."""

from __future__ import annotations

import click

from plumd.cli.screen import column, line, moment, moment_column, names, pairs, value_of, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    file_option,
    given,
    key_option,
    label_option,
    limit_option,
    named,
    pass_session,
    payload_option,
    wait_options,
)
from plumd.cli.tasks import finish, target_text
from plumd.sdk.client import Client, Json, JsonObject, object_of

BASE = "/v1/task-defs"
COLUMNS = (
    column("ID", "defId"), column("NAME", "name"), column("VERSION", "version"),
    column("EXECUTOR", "executor"), column("TARGET", "targetRef"),
    moment_column("UPDATED", "updatedAt"),
)


@click.group("def", cls=PlumGroup)
def group() -> None:
    """Task definitions: templates of tasks, with versions."""


def find(client: Client, reference: str) -> JsonObject:
    """The definition that an id or a name means. Raises: ProblemError."""
    return named(client, BASE, "task definition", reference)


def path_of(found: JsonObject) -> str:
    """Where a definition is."""
    return f"{BASE}/{found['defId']}"


def show(session: Session, found: JsonObject) -> None:
    """One definition."""
    session.screen.item(found, "defId", [
        ("ID", word(found, "defId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("Description", word(found, "description")),
        ("Executor", target_text(found)), ("Labels", pairs(found, "labels")),
        ("Timeout", f"{word(found, 'timeoutSec')} s" if found.get("timeoutSec") else ""),
        ("Retries", word(found, "maxRetries")), ("Priority", word(found, "priority")),
        ("If lost", word(found, "onLost")), ("Overridable", names(found, "overridable")),
        ("Created", moment(found, "createdAt")), ("Updated", moment(found, "updatedAt")),
        ("Default payload", value_of(found, "defaultPayload")),
    ])


@group.command("list")
@limit_option
@pass_session
def list_(session: Session, limit: int) -> None:
    """List task definitions, newest first."""
    session.screen.items(session.client.items(BASE, limit=limit or None), "defId", COLUMNS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="A past version.")
@pass_session
def get(session: Session, reference: str, version: int | None) -> None:
    """Show a definition."""
    found = find(session.client, reference)
    if version is not None:
        found = session.client.get_object(path_of(found), {"version": version})
    show(session, found)


@group.command()
@file_option
@key_option
@pass_session
def create(session: Session, body: JsonObject, key: str | None) -> None:
    """Create a definition from JSON."""
    headers = {} if key is None else {"Idempotency-Key": key}
    made = object_of(session.client.request("POST", BASE, body, headers=headers))
    show(session, made)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@file_option
@click.option("--if-version", type=click.IntRange(min=1), metavar="N",
              help="Only if this is the current version; else exit with 5.")
@pass_session
def update(session: Session, reference: str, body: JsonObject, if_version: int | None) -> None:
    """Make a new version of a definition from JSON."""
    found = find(session.client, reference)
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    made = object_of(session.client.request("PUT", path_of(found), body, headers=headers))
    show(session, made)


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete definitions that no workflow uses; their tasks stay."""
    def remove(reference: str) -> None:
        session.client.request("DELETE", path_of(find(session.client, reference)))
        session.screen.say(f"deleted {line(reference)}")

    each(session, references, remove)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@limit_option
@pass_session
def versions(session: Session, reference: str, limit: int) -> None:
    """List a definition's versions, newest first."""
    found = find(session.client, reference)
    session.screen.items(session.client.items(path_of(found) + "/versions", limit=limit or None),
                         "version", COLUMNS)


@group.command()
@click.argument("reference", metavar="NAME|ID")
@payload_option
@label_option
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SEC",
              help="An attempt may take so long; 0 = for ever.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="After failures.")
@click.option("--priority", type=click.IntRange(0, 9), metavar="N", help="0 to 9, higher first.")
@key_option
@wait_options
@pass_session
def run(session: Session, reference: str, payload: Json, labels: dict[str, str],
        timeout: float | None, retries: int | None, priority: int | None, key: str | None,
        wait: bool, wait_timeout: float | None) -> int:
    """Run a definition."""
    found = find(session.client, reference)
    fields = given({"labels": dict(labels) if labels else None, "timeoutSec": timeout,
                    "maxRetries": retries, "priority": priority})
    task = session.client.run_definition(str(found["defId"]), payload, key=key, **fields)
    return finish(session, task, wait, wait_timeout)
