"""plum workflow ... and plum run ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from plumd.cli.screen import Column, column, duration, moment, moment_column, table, value_of, word
from plumd.cli.session import (
    STATES,
    Number,
    PlumGroup,
    Session,
    each,
    exit_code,
    key_option,
    limit_option,
    pass_session,
    payload_option,
    wait_options,
)
from plumd.cli.things import Things, reference_argument
from plumd.cli.waiting import wait_run
from plumd.sdk.client import Json, JsonObject, object_of, part

P = ParamSpec("P")
T = TypeVar("T")
BASE = "/v1/workflows"
RUNS = "/v1/workflow-runs"
COLUMNS = (
    column("ID", "workflowId"), column("NAME", "name"), column("VERSION", "version"),
    Column("STEPS", lambda item: " > ".join(word(step, "name") for step in steps_of(item))),
    moment_column("UPDATED", "updatedAt"),
)
STEPS = (
    column("STEP", "name"), column("EXECUTOR", "executor"), column("DEFINITION", "definitionId"),
    column("TIMEOUT", "timeoutSec"), column("RETRIES", "maxRetries"),
    Column("PAYLOAD", lambda item: word(item, "payload")),
)
RUN_COLUMNS = (
    column("ID", "runId"), column("WORKFLOW", "name"), column("VERSION", "workflowVersion"),
    column("STATE", "state"), moment_column("CREATED", "createdAt"),
    moment_column("FINISHED", "finishedAt"),
)
STEP_RUNS = (
    column("STEP", "name"), column("STATE", "state"), column("TASK", "taskId"),
    column("ATTEMPT", "attempt"), moment_column("STARTED", "startedAt"), Column("TOOK", duration),
)


@click.group("workflow", cls=PlumGroup)
def group() -> None:
    """Workflows: steps, and what they need of each other."""


@click.group("run", cls=PlumGroup)
def runs() -> None:
    """Runs of workflows."""


def steps_of(item: JsonObject) -> list[JsonObject]:
    """The steps of a workflow or run."""
    steps = item.get("steps")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def show(session: Session, found: JsonObject) -> None:
    """One workflow with its steps."""
    session.screen.item(found, "workflowId", [
        ("ID", word(found, "workflowId")), ("Name", word(found, "name")),
        ("Version", word(found, "version")), ("Description", word(found, "description")),
        ("Created", moment(found, "createdAt")), ("Updated", moment(found, "updatedAt"))])
    if session.screen.output == "table" and steps_of(found):
        session.screen.say("")
        session.screen.show(table(steps_of(found), STEPS))


WORKFLOWS = Things(group, "workflow", "workflows", BASE, "workflowId", COLUMNS, show)
WORKFLOWS.add_commands(
    create="Create a workflow from JSON.",
    update="Make a new version of a workflow from JSON; runs that go on keep theirs.",
    delete="Delete workflows with their history.")


def show_run(session: Session, found: JsonObject) -> None:
    """One run with its steps."""
    session.screen.item(found, "runId", [
        ("Run", word(found, "runId")), ("Workflow", word(found, "name")),
        ("Version", word(found, "workflowVersion")), ("State", word(found, "state")),
        ("Created", moment(found, "createdAt")),
        ("Cancel asked", moment(found, "cancelRequestedAt")),
        ("Finished", moment(found, "finishedAt")), ("Payload", value_of(found, "payload"))])
    if session.screen.output == "table" and steps_of(found):
        session.screen.say("")
        session.screen.show(table(steps_of(found), STEP_RUNS))


# ---------------------------------------------------------------- workflow

@group.command()
@reference_argument
@limit_option
@pass_session
def versions(session: Session, reference: str, limit: int) -> None:
    """List a workflow's versions, newest first."""
    WORKFLOWS.show_below(session, reference, "versions", "version", COLUMNS, limit)


@group.command()
@reference_argument
@click.option("--to", "version", type=click.IntRange(min=1), metavar="N", required=True,
              help="The version to go back to.")
@pass_session
def rollback(session: Session, reference: str, version: int) -> None:
    """Make a new version that says what an older one said."""
    found = WORKFLOWS.find(session.client, reference)
    show(session, object_of(session.client.request(
        "POST", WORKFLOWS.path_of(found), {"version": version}, query={"action": "rollback"})))


def run_options(function: Callable[P, T]) -> Callable[P, T]:
    """--version and --up-to of what begins a run."""
    for option in (
            click.option("--up-to", metavar="STEP", help="Go no further than to this step."),
            click.option("--version", type=int, metavar="N", help="Of the workflow.")):
        function = option(function)
    return function


@group.command()
@reference_argument
@payload_option
@run_options
@key_option
@wait_options
@pass_session
def run(session: Session, reference: str, payload: Json, version: int | None, up_to: str | None,
        key: str | None, wait: bool, wait_timeout: float | None) -> int:
    """Start a run of a workflow; the payload lies over every step's."""
    found = WORKFLOWS.find(session.client, reference)
    begun = session.client.run_workflow(str(found["workflowId"]), payload, key=key,
                                        version=version, up_to=up_to)
    if not wait and wait_timeout is None:
        show_run(session, begun)
        return 0
    over = wait_run(session, str(begun["runId"]), wait_timeout)
    show_run(session, over)
    return exit_code(over)


# ---------------------------------------------------------------- run

@runs.command("list")
@click.option("--workflow", "reference", metavar="NAME|ID", help="Only of this workflow.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False))
@limit_option
@pass_session
def list_runs(session: Session, reference: str | None, state: str | None, limit: int) -> None:
    """List runs, newest first."""
    workflow_id = None if reference is None else str(
        WORKFLOWS.find(session.client, reference)["workflowId"])
    found = session.client.items(RUNS, {"workflowId": workflow_id, "state": state},
                                 limit=limit or None)
    session.screen.items(found, "runId", RUN_COLUMNS)


@runs.command("get")
@click.argument("run_id", metavar="ID")
@pass_session
def get_run(session: Session, run_id: str) -> None:
    """Show a run with its steps."""
    show_run(session, session.client.run(run_id))


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--timeout", type=Number(min=0), metavar="SEC",
              help="Wait so long at most, then exit with 124.")
@pass_session
def wait(session: Session, run_id: str, timeout: float | None) -> int:
    """Wait for a run's end; exit with 1 unless it Succeeded."""
    over = wait_run(session, run_id, timeout)
    show_run(session, over)
    return exit_code(over)


@runs.command()
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def cancel(session: Session, run_ids: tuple[str, ...]) -> None:
    """End runs; the task that runs is stopped first."""
    found: list[JsonObject] = []
    try:
        each(session, run_ids,
             lambda one: found.append(session.client.act(f"{RUNS}/{part(one)}", "cancel")))
    finally:
        if found:
            session.screen.items(found, "runId", RUN_COLUMNS)


@runs.command("delete")
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete_runs(session: Session, run_ids: tuple[str, ...]) -> None:
    """Remove runs that are over, with their tasks."""
    def remove(run_id: str) -> None:
        session.client.request("DELETE", f"{RUNS}/{part(run_id)}")
        session.screen.say(f"deleted {run_id}")

    each(session, run_ids, remove)
