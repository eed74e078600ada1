"""plum task ..."""

from __future__ import annotations

import click

from plumd.cli.screen import (
    Column,
    clean,
    column,
    duration,
    json_text,
    line,
    moment,
    moment_column,
    pairs,
    value_of,
    word,
)
from plumd.cli.session import (
    FAILED,
    STATES,
    Number,
    PlumGroup,
    Session,
    each,
    exit_code,
    given,
    key_option,
    label_option,
    limit_option,
    pass_session,
    payload_option,
    wait_options,
)
from plumd.cli.waiting import wait_task
from plumd.sdk.client import Json, JsonObject, part


def error_text(item: JsonObject) -> str:
    """A task's or attempt's error on one line."""
    error = item.get("error")
    if not isinstance(error, dict):
        return ""
    facts = [f"{title} {word(error, name)}" for title, name in
             (("exit code", "exitCode"), ("signal", "signal")) if error.get(name) is not None]
    text = f"{word(error, 'code')}: {word(error, 'message')}"
    return f"{text} ({', '.join(facts)})" if facts else text


COLUMNS = (
    column("ID", "taskId"), column("NAME", "name"), column("STATE", "state"),
    column("ATTEMPT", "attempt"), column("WORKER", "worker"),
    moment_column("CREATED", "createdAt"), Column("TOOK", duration),
)
ATTEMPTS = (
    column("ATTEMPT", "attempt"), column("ID", "attemptId"), column("ENDING", "ending"),
    column("WORKER", "worker"), moment_column("STARTED", "startedAt"), Column("TOOK", duration),
    Column("ERROR", error_text),
)


FAILURES = (
    column("COUNT", "count"), column("NAME", "name"), column("CODE", "code"),
    column("LAST TASK", "lastTaskId"), moment_column("LAST", "lastAt"),
    moment_column("FIRST", "firstAt"), column("MESSAGE", "message"),
)


@click.group("task", cls=PlumGroup)
def group() -> None:
    """Submit tasks, look at them, stop them."""


def target_text(task: JsonObject) -> str:
    """`embedded, on node rig-7`"""
    text = word(task, "executor")
    if task.get("targetKind"):
        text += f", {word(task, 'targetKind')} {word(task, 'targetRef')}"
    return text


def rows(task: JsonObject) -> list[tuple[str, str]]:
    """A task's card."""
    retries = task.get("maxRetries")
    attempt = word(task, "attempt") + (f", {retries} retries at most" if retries else "")
    return [
        ("ID", word(task, "taskId")), ("Name", word(task, "name")),
        ("State", word(task, "state")), ("Error", error_text(task)),
        ("Executor", target_text(task)), ("Attempt", attempt), ("Worker", word(task, "worker")),
        ("Labels", pairs(task, "labels")), ("Definition", word(task, "defId")),
        ("Workflow run", word(task, "runId")), ("Rerun of", word(task, "originTaskId")),
        ("Created", moment(task, "createdAt")), ("Due", moment(task, "dueAt")),
        ("Started", moment(task, "startedAt")),
        ("Cancel asked", moment(task, "cancelRequestedAt")),
        ("Finished", moment(task, "finishedAt")), ("Took", duration(task)),
        ("Payload", value_of(task, "payload")), ("Result", value_of(task, "result")),
    ]


def show(session: Session, task: JsonObject) -> None:
    """One task."""
    session.screen.item(task, "taskId", rows(task))


def finish(session: Session, task: JsonObject, wait: bool, timeout_s: float | None) -> int:
    """Show a submitted task, at once or at its end; the exit code."""
    if not wait and timeout_s is None:
        show(session, task)
        return 0
    over = wait_task(session, str(task["taskId"]), timeout_s)
    show(session, over)
    return exit_code(over)


@group.command()
@click.argument("name")
@payload_option
@label_option
@click.option("--timeout", type=Number(min=0), metavar="SEC",
              help="An attempt may take so long; 0 = for ever.")
@click.option("--queue-timeout", type=Number(min=0), metavar="SEC",
              help="It may wait so long for a worker; 0 = for ever.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="After failures.")
@click.option("--priority", type=click.IntRange(0, 9), metavar="N", help="0 to 9, higher first.")
@click.option("--delay", type=Number(min=0), metavar="SEC", help="Start later.")
@click.option("--executor", type=click.Choice(("embedded", "service", "os_process")),
              help="Without a definition: who carries it out; default embedded.")
@click.option("--target", metavar="KIND=REF",
              help="Where: node=rig-7, labels=gpu=yes, worker=w1, service=api, ...")
@click.option("--on-lost", type=click.Choice(("retry", "fail")),
              help="What follows when its worker is lost.")
@click.option("--hold", is_flag=True, help="Create it, but do not start it.")
@key_option
@wait_options
@pass_session
def run(session: Session, name: str, payload: Json, labels: dict[str, str],
        timeout: float | None, queue_timeout: float | None, retries: int | None,
        priority: int | None, delay: float | None, executor: str | None, target: str | None,
        on_lost: str | None, hold: bool, key: str | None, wait: bool,
        wait_timeout: float | None) -> int:
    """Submit a task by the NAME of a definition, of a worker's task, or builtin.*"""
    kind, equals, ref = (target or "").partition("=")
    if target is not None and not equals:
        raise click.UsageError(f"--target {line(target)}: it is written KIND=REF")
    if hold and (wait or wait_timeout is not None):
        raise click.UsageError("--hold: a task that is not started does not end; leave --wait out")
    fields = given({
        "labels": dict(labels) if labels else None, "timeoutSec": timeout,
        "queueTimeoutSec": queue_timeout, "maxRetries": retries, "priority": priority,
        "delaySec": delay, "executor": executor, "targetKind": kind or None,
        "targetRef": ref or None, "onLost": on_lost, "autoStart": False if hold else None})
    task = session.client.submit(name, payload, key=key, **fields)
    return finish(session, task, wait, wait_timeout)


@group.command("list")
@click.option("--state", "states", type=click.Choice(STATES, case_sensitive=False), multiple=True,
              help="Only in this state, or in one of these.")
@click.option("--name", help="Only of this name.")
@click.option("--label", metavar="KEY=VALUE", help="Only with this label.")
@click.option("--def", "def_id", metavar="ID", help="Only of this definition.")
@click.option("--run", "run_id", metavar="ID", help="Only of this workflow run.")
@click.option("--worker", metavar="ID", help="Only those that this worker has or had last.")
@click.option("--error", metavar="CODE", help="Only those that ended with this error.")
@click.option("--oldest", is_flag=True, help="Oldest first.")
@limit_option
@pass_session
def list_(session: Session, states: tuple[str, ...], name: str | None, label: str | None,
          def_id: str | None, run_id: str | None, worker: str | None, error: str | None,
          oldest: bool, limit: int) -> None:
    """List tasks, newest first."""
    found = session.client.tasks(
        limit=limit or None, state=",".join(states) or None, name=name, label=label, defId=def_id,
        runId=run_id, workerId=worker, errorCode=error, order="oldest" if oldest else None)
    session.screen.items(found, "taskId", COLUMNS)


@group.command()
@limit_option
@pass_session
def failures(session: Session, limit: int) -> None:
    """Show what failed lately, equal failures together."""
    found = session.client.items("/v1/tasks/failures", limit=min(limit or 200, 200))
    session.screen.items(found, "lastTaskId", FAILURES)


@group.command()
@click.argument("task_id", metavar="ID")
@pass_session
def get(session: Session, task_id: str) -> None:
    """Show a task."""
    show(session, session.client.task(task_id))


@group.command()
@click.argument("task_id", metavar="ID")
@pass_session
def result(session: Session, task_id: str) -> int:
    """Print a task's result as JSON; exit with 1 unless it Succeeded."""
    task = session.client.task(task_id)
    if task.get("state") != "Succeeded":
        text = error_text(task)
        session.screen.complain(f"the task is {word(task, 'state')}" + (text and f"; {text}"))
        return FAILED
    session.screen.json(task.get("result"))
    return 0


@group.command()
@click.argument("task_id", metavar="ID")
@click.option("--timeout", type=Number(min=0), metavar="SEC",
              help="Wait so long at most, then exit with 124.")
@pass_session
def wait(session: Session, task_id: str, timeout: float | None) -> int:
    """Wait for a task's end; exit with 1 unless it Succeeded."""
    over = wait_task(session, task_id, timeout)
    show(session, over)
    return exit_code(over)


@group.command()
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Stay and show more as it comes.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Default: the last.")
@click.option("--tail", type=click.IntRange(min=1), metavar="BYTES", default=None,
              help="Only so much of the end, and what comes behind it.")
@click.option("--raw", is_flag=True,
              help="Byte for byte. Without it control characters are shown as escapes.")
@pass_session
def logs(session: Session, task_id: str, follow: bool, attempt: int | None, tail: int | None,
         raw: bool) -> None:
    """Print what a task's process wrote, or its worker said."""
    session.screen.log(session.client.logs(task_id, attempt=attempt, follow=follow,
                                           tail_bytes=tail or 0), raw=raw)


@group.command()
@click.argument("task_id", metavar="ID")
@pass_session
def why(session: Session, task_id: str) -> None:
    """Say why a task waits."""
    answer = session.client.get_object(f"/v1/tasks/{part(task_id)}/why")
    causes = answer.get("causes")
    lines = [f"{line(str(cause.get('code')))}: {clean(str(cause.get('message')))}"
             for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
    if session.screen.output == "json":
        session.screen.write(json_text(answer))
    elif session.screen.output == "name":
        session.screen.write(word(answer, "taskId"))
    else:
        session.screen.say("\n".join(lines) or f"It waits for nothing: it is "
                           f"{word(answer, 'state')}.")


@group.command()
@click.argument("task_id", metavar="ID")
@pass_session
def attempts(session: Session, task_id: str) -> None:
    """List a task's attempts."""
    found = session.client.items(f"/v1/tasks/{part(task_id)}/attempts")
    session.screen.items(found, "attemptId", ATTEMPTS)


@group.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def cancel(session: Session, task_ids: tuple[str, ...]) -> None:
    """End tasks; those that run are stopped first."""
    found: list[JsonObject] = []
    try:
        each(session, task_ids, lambda one: found.append(session.client.cancel_task(one)))
    finally:
        if found:
            session.screen.items(found, "taskId", COLUMNS)


@group.command()
@click.argument("task_id", metavar="ID")
@pass_session
def start(session: Session, task_id: str) -> None:
    """Let a task go that was created with --hold."""
    show(session, session.client.act(f"/v1/tasks/{part(task_id)}", "start"))


@group.command()
@click.argument("task_id", metavar="ID")
@wait_options
@pass_session
def rerun(session: Session, task_id: str, wait: bool, wait_timeout: float | None) -> int:
    """Submit a new task like this one."""
    task = session.client.act(f"/v1/tasks/{part(task_id)}", "rerun")
    return finish(session, task, wait, wait_timeout)


@group.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, task_ids: tuple[str, ...]) -> None:
    """Remove tasks that are over, with all that belongs to them."""
    each(session, task_ids, lambda one: remove(session, one))


def remove(session: Session, task_id: str) -> None:
    """One of them."""
    session.client.request("DELETE", f"/v1/tasks/{part(task_id)}")
    session.screen.say(f"deleted {task_id}")


