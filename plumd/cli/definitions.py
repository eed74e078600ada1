"""plum def ..."""

from __future__ import annotations

import click

from plumd.cli.screen import column, moment, moment_column, names, pairs, value_of, word
from plumd.cli.session import (
    Number,
    PlumGroup,
    Session,
    given,
    key_option,
    label_option,
    limit_option,
    pass_session,
    payload_option,
    wait_options,
)
from plumd.cli.tasks import finish, target_text
from plumd.cli.things import Things, reference_argument
from plumd.sdk.client import Json, JsonObject

BASE = "/v1/task-defs"
COLUMNS = (
    column("ID", "defId"), column("NAME", "name"), column("VERSION", "version"),
    column("EXECUTOR", "executor"), column("TARGET", "targetRef"),
    moment_column("UPDATED", "updatedAt"),
)


@click.group("def", cls=PlumGroup)
def group() -> None:
    """Task definitions: templates of tasks, with versions."""


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


DEFINITIONS = Things(group, "task definition", "task definitions", BASE, "defId", COLUMNS, show)
DEFINITIONS.add_list()
DEFINITIONS.add_create("Create a definition from JSON.")
DEFINITIONS.add_update("Make a new version of a definition from JSON.")
DEFINITIONS.add_delete("Delete definitions that no workflow uses; their tasks stay.")


@group.command()
@reference_argument
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="A past version.")
@pass_session
def get(session: Session, reference: str, version: int | None) -> None:
    """Show a definition."""
    found = DEFINITIONS.find(session.client, reference)
    if version is not None:
        found = session.client.get_object(DEFINITIONS.path_of(found), {"version": version})
    show(session, found)


@group.command()
@reference_argument
@limit_option
@pass_session
def versions(session: Session, reference: str, limit: int) -> None:
    """List a definition's versions, newest first."""
    DEFINITIONS.show_below(session, reference, "versions", "version", COLUMNS, limit)


@group.command()
@reference_argument
@payload_option
@label_option
@click.option("--timeout", type=Number(min=0), metavar="SEC",
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
    found = DEFINITIONS.find(session.client, reference)
    fields = given({"labels": dict(labels) if labels else None, "timeoutSec": timeout,
                    "maxRetries": retries, "priority": priority})
    task = session.client.run_definition(str(found["defId"]), payload, key=key, **fields)
    return finish(session, task, wait, wait_timeout)
