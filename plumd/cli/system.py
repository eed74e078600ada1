"""plum status, plum stats, plum events, plum completion."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import click
from click.shell_completion import get_completion_class
from rich.text import Text

from plumd.cli.screen import STYLES, line, names, word
from plumd.cli.session import Number, PlumCommand, Session, pass_session
from plumd.sdk.client import ClientError, Event, JsonObject, ProblemError, UnreachableError

SHELLS = ("bash", "zsh", "fish")
READY_PAUSE_S = 0.1
FIRST_AT_MS = 1_000_000_000_000
"""Facts below this are numbers of something else."""


@click.command(cls=PlumCommand)
@click.option("--wait", type=Number(min=0), metavar="SEC",
              help="Wait so long at most until the daemon takes writes.")
@pass_session
def status(session: Session, wait: float | None) -> None:
    """Show how the daemon is; exit with 6 when it cannot be reached or takes no writes."""
    if wait is not None:
        wait_ready(session, wait)
    state = session.client.get_object("/v1/status")
    session.screen.item(state, "nodeId", [
        ("Server", session.client.url), ("Version", word(state, "version")),
        ("Node", word(state, "nodeId")), ("Writes", word(state, "writes")),
        ("Queued", word(state, "queued")), ("Pending", word(state, "pending")),
        ("Running", word(state, "running")), ("Retrying", word(state, "retrying")),
        ("Workflow runs", word(state, "workflowRuns")), ("Workers", word(state, "workers")),
        ("Commits", word(state, "commits")), ("A commit takes", f"{word(state, 'commitMs')} ms"),
        ("Next event", word(state, "nextEvent")),
        ("Trusted networks", names(state, "trustedNetworks") or "none")])
    writes = word(state, "writes")
    if writes != "ok":
        raise ProblemError(503, "storage_unavailable", f"writes are refused: {writes}")


@click.command("support-bundle", cls=PlumCommand)
@click.option("-f", "--file", "path", default="plum-support.zip", show_default=True,
              type=click.Path(dir_okay=False, path_type=Path), help="Where it is written.")
@pass_session
def support_bundle(session: Session, path: Path) -> None:
    """Write what somebody who helps wants to see into a zip file, without payloads and secrets."""
    path.write_bytes(session.client.request("GET", "/v1/support-bundle").content)
    session.screen.say(f"wrote {path}: look through it before you give it away")


@click.command(cls=PlumCommand)
@pass_session
def stats(session: Session) -> None:
    """Show how busy the daemon is, as it was measured within the last second."""
    found = session.client.get_object("/v1/stats")

    def inner(name: str) -> JsonObject:
        value = found[name]
        return value if isinstance(value, dict) else {}

    def some(name: str, *keys: str) -> str:
        return ", ".join(f"{key} {word(inner(name), key)}" for key in keys
                         if word(inner(name), key))

    session.screen.item(found, "nodeId", [
        ("Up", f"{word(found, 'uptimeSec')} s"), ("Writes", word(found, "writes")),
        ("Tasks", some("states", "queued", "pending", "running", "retrying")),
        ("A second", some("perSec", "submitted", "started", "succeeded", "failed", "timeout",
                          "canceled", "lost")),
        ("Wait, ms", some("queueWaitMs", "p50", "p99")), ("Run, ms", some("runMs", "p50", "p99")),
        ("Workers", word(found, "workers")), ("Slots", some("slots", "total", "busy")),
        ("Commits", some("commit", "perSec", "ms", "batch")),
        ("Commands waiting", word(found, "writerQueue")),
        ("Database, bytes", word(found, "dbBytes")), ("Memory, bytes", word(found, "rssBytes")),
        ("Processor", word(found, "cpuRatio")), ("Event streams", word(found, "sseReaders"))])


def wait_ready(session: Session, seconds: float) -> None:
    """Until /readyz says yes. Raises: what it said last, when the time is over."""
    until = time.monotonic() + seconds
    while True:
        try:
            session.client.request("GET", "/readyz")
        except ClientError as error:
            passing = isinstance(error, UnreachableError) or (
                isinstance(error, ProblemError) and error.status == 503)
            if not passing or time.monotonic() > until:
                raise
            time.sleep(READY_PAUSE_S)
        else:
            return


@click.command(cls=PlumCommand)
@click.option("--topics", default="", metavar="A,B",
              help="Some of tasks, workflows, runs, workers, taskDefs, services, resources, kv, "
                   "schedules, triggers, limits, nodes, apps, deployments, alerts; default all.")
@click.option("--from", "from_seq", type=click.IntRange(min=1), metavar="SEQ",
              help="Begin with the event of this number; 1 = the oldest that is kept.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@pass_session
def events(session: Session, topics: str, from_seq: int | None, count: int | None) -> None:
    """Follow the event log; goes on through restarts of the daemon and misses nothing."""
    after = None if from_seq is None else from_seq - 1
    for number, event in enumerate(session.client.events(topics, after=after), start=1):
        show_event(session, event)
        if number == count:
            return


def show_event(session: Session, event: Event) -> None:
    """One line."""
    if session.screen.output == "json":
        session.screen.json({"id": event.id, "event": event.name, "data": event.data}, indent=None)
    elif session.screen.output == "name":
        session.screen.write(str(event.id))
    else:
        text = Text.assemble(f"{event.id:>8} {clock_of(event.data)} {line(event.name):<8} ",
                             *words_of(event))
        session.screen.out.print(text, soft_wrap=True)
        session.screen.out.file.flush()


def clock_of(data: JsonObject) -> str:
    """When it happened, where that was said: in `at`, or as the last of the facts."""
    facts = data.get("facts")
    at_ms = data.get("at", facts[-1] if isinstance(facts, list) and facts else None)
    if not isinstance(at_ms, int) or at_ms < FIRST_AT_MS:
        return " " * 12
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def words_of(event: Event) -> list[tuple[str, str]]:
    """(text, style) pairs that say what happened."""
    data = event.data
    if event.name == "gap":
        return [("events before this one are kept no longer; look at everything again", "red")]
    state = word(data, "state")
    if event.name == "task":
        attempt, worker = word(data, "attempt"), word(data, "worker")
        return [(f"{word(data, 'taskId')} {word(data, 'name')} ", ""),
                (state, STYLES.get(state, "")),
                (f" attempt {attempt}" if attempt != "0" else "", ""),
                (f" on {worker}" if worker else "", "")]
    if event.name == "run":
        return [(f"{word(data, 'runId')} ", ""), (state, STYLES.get(state, ""))]
    if event.name == "step":
        return [(f"{word(data, 'runId')} {word(data, 'stepId')} ", ""),
                (state, STYLES.get(state, ""))]
    if event.name == "kv":
        what = "deleted" if data.get("deleted") is True else f"version {word(data, 'version')}"
        return [(f"{word(data, 'namespace')} {word(data, 'key')} {what}", "")]
    facts = data.get("facts")
    more = " ".join(line(fact) for fact in (facts if isinstance(facts, list) else [])
                    if isinstance(fact, str) and fact not in ("", data.get("what")))
    return [(f"{word(data, 'id')} {word(data, 'what')} {more}".rstrip(), "")]


@click.command(cls=PlumCommand)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script, for example: eval "$(plum completion bash)" """
    made = get_completion_class(shell)
    assert made is not None, "click knows these three"
    click.echo(made(context.find_root().command, {}, "plum", "_PLUM_COMPLETE").source())
