"""plum run ...: what people do to runs that go on, and to their steps."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, duration, moment_column, word
from plumd.cli.session import (
    Session,
    exit_code,
    limit_option,
    pass_session,
    payload_option,
    wait_options,
)
from plumd.cli.waiting import wait_run
from plumd.cli.workflows import RUNS, run_options, runs, show_run
from plumd.sdk.client import NOTHING, Json, JsonObject, object_of, part

COLUMNS = (
    column("STEP", "stepId"), column("TYPE", "type"), column("STATE", "state"),
    column("TASK", "taskId"), column("ATTEMPT", "attempt"), moment_column("STARTED", "startedAt"),
    Column("TOOK", duration),
)
CAUSES = (column("CODE", "code"), column("WHY", "message"))


def post(session: Session, path: str, action: str, payload: Json = None,
         **fields: Json) -> JsonObject:
    """An action, with a payload and fields when there are some."""
    body: JsonObject = {key: value for key, value in {"payload": payload, **fields}.items()
                        if value is not None and value is not NOTHING}
    return object_of(session.client.request("POST", f"{path}?action={action}",
                                            body if body else None))


def step_path(run_id: str, step: str) -> str:
    """Where a step of a run is."""
    return f"{RUNS}/{part(run_id)}/steps/{part(step)}"


def begun(session: Session, made: JsonObject, wait: bool, wait_timeout: float | None) -> int:
    """Show a new run, at its end when that is wanted."""
    if not wait and wait_timeout is None:
        show_run(session, made)
        return 0
    over = wait_run(session, str(made["runId"]), wait_timeout)
    show_run(session, over)
    return exit_code(over)


def show_step(session: Session, found: JsonObject) -> None:
    """One step."""
    session.screen.item(found, "stepId", [
        ("Step", word(found, "stepId")), ("Type", word(found, "type")),
        ("State", word(found, "state")), ("Task", word(found, "taskId"))])


@runs.command()
@click.argument("run_id", metavar="ID")
@pass_session
def pause(session: Session, run_id: str) -> None:
    """Let nothing new begin in a run."""
    show_run(session, post(session, f"{RUNS}/{part(run_id)}", "pause"))


@runs.command()
@click.argument("run_id", metavar="ID")
@pass_session
def resume(session: Session, run_id: str) -> None:
    """Let a paused run go on."""
    show_run(session, post(session, f"{RUNS}/{part(run_id)}", "resume"))


@runs.command()
@click.argument("run_id", metavar="ID")
@wait_options
@pass_session
def retry(session: Session, run_id: str, wait: bool, wait_timeout: float | None) -> int:
    """Begin a new run from what failed in this one on."""
    return begun(session, post(session, f"{RUNS}/{part(run_id)}", "retry"), wait, wait_timeout)


@runs.command()
@click.argument("run_id", metavar="ID")
@payload_option
@run_options
@wait_options
@pass_session
def rerun(session: Session, run_id: str, payload: Json, version: int | None, up_to: str | None,
          wait: bool, wait_timeout: float | None) -> int:
    """Begin a new run; what is not given is as it was: payload and version."""
    made = post(session, f"{RUNS}/{part(run_id)}", "rerun", payload, version=version, upTo=up_to)
    return begun(session, made, wait, wait_timeout)


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--inside", metavar="STEP", help="The steps in all rounds of this loop or map.")
@limit_option
@pass_session
def steps(session: Session, run_id: str, inside: str | None, limit: int) -> None:
    """List the steps of a run."""
    found = session.client.items(f"{RUNS}/{part(run_id)}/steps", {"inside": inside},
                                 limit=limit or None)
    session.screen.items(found, "stepId", COLUMNS)


@runs.command()
@click.argument("run_id", metavar="ID")
@click.argument("step", metavar="STEP")
@pass_session
def why(session: Session, run_id: str, step: str) -> None:
    """Say what a step waits for."""
    found = object_of(session.client.request("GET", step_path(run_id, step) + "/why"))
    causes = found.get("causes")
    session.screen.items([one for one in causes if isinstance(one, dict)]
                         if isinstance(causes, list) else [], "code", CAUSES)


def step_command(action: str, about: str) -> None:
    """Add a command that does this to a step."""
    @runs.command(action, help=about)
    @click.argument("run_id", metavar="ID")
    @click.argument("step", metavar="STEP")
    @payload_option
    @pass_session
    def act(session: Session, run_id: str, step: str, payload: Json) -> None:
        show_step(session, post(session, step_path(run_id, step), action, payload))


step_command("approve", "Approve a step that waits for it.")
step_command("reject", "Reject a step that waits for an approval; it counts as Failed.")
step_command("complete", "Say that the event has come that a step waits for.")
step_command("skip", "Skip a step that has not begun, or waits.")

__all__ = ["runs"]
