"""plum workflow simulate: what a workflow would do, and what more workers would change."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, table, word
from plumd.cli.session import Number, PlumCommand, Session, pass_session, payload_option, read_body
from plumd.cli.workflow_files import texts_of
from plumd.cli.workflows import BASE, WORKFLOWS, group
from plumd.sdk.client import NOTHING, Json, JsonObject, object_of
from plumd.sdk.wire import json_of

WIDTH = 60
ROWS = 60
STEPS = (
    column("STEP", "stepId"), column("TASKS", "instances"), column("ATTEMPTS", "attempts"),
    column("WAIT S", "waitSec"), column("RUN S", "runSec"), column("FAILURES", "failures"),
    Column("CRITICAL", lambda item: share(item.get("critical"))),
)
OTHERS = (
    column("SLOTS", "slots"), Column("MAKESPAN S", lambda item: mean(item.get("makespan"))),
    column("WAIT S", "waitSec"), Column("BUSY", lambda item: share(item.get("utilization"))),
    column("SAVED S", "savedSec"),
)


def number(value: Json) -> float:
    """A number of an answer."""
    return float(value) if isinstance(value, int | float) else 0.0


def share(value: Json) -> str:
    """A share as people read it."""
    return f"{number(value):.0%}"


def mean(value: Json) -> str:
    """The mean of a spread."""
    return f"{number(value.get('mean')):g}" if isinstance(value, dict) else ""


def objects(value: Json) -> list[JsonObject]:
    """The objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def bar_text(bar: JsonObject, total: float) -> str:
    """A bar: dots while it waits for a slot, blocks while it runs; * = on the critical path."""
    ready, started = number(bar.get("readyAt")), bar.get("startedAt")
    over = number(bar.get("finishedAt")) if bar.get("finishedAt") is not None else total
    begun = number(started) if started is not None else over
    scale = WIDTH / total if total else 0
    places = [round(value * scale) for value in (ready, begun, over)]
    text = " " * places[0] + "." * (places[1] - places[0])
    return text + ("*" if bar.get("critical") else "=") * max(places[2] - places[1],
                                                             int(over > begun))


def read_step(context: click.Context, parameter: click.Parameter,
              texts: tuple[str, ...]) -> dict[str, Json]:
    """STEP=SEC, STEP=FROM..TO or with :RATE behind, as often as given."""
    del context
    found: dict[str, Json] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        took, colon, rate = rest.partition(":")
        try:
            ends = [float(part) for part in took.split("..")]
            one: JsonObject = {"durationSec": ends[0] if len(ends) == 1 else list(ends)}
            if colon:
                one["failureRate"] = float(rate)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise click.BadParameter(f"{text} is not written STEP=SEC, STEP=FROM..TO or "
                                     "STEP=SEC:FAILURERATE", param=parameter)
        found[name] = one
    return found


def read_options(context: click.Context, parameter: click.Parameter,
                 name: str | None) -> JsonObject:
    """A JSON object from a file, if one is named."""
    return {} if name is None else read_body(context, parameter, name)


@group.command(cls=PlumCommand)
@click.argument("reference", metavar="[NAME|ID]", required=False)
@click.option("-f", "--file", "name", metavar="FILE", help="A YAML file with one workflow, which "
              "need not be saved.")
@click.option("--options", "body", metavar="FILE", callback=read_options,
              help="A JSON file with what the API takes; the other options lie over it.")
@payload_option
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Default 4.")
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="So many at once.")
@click.option("--every", type=Number(min=0), metavar="SEC", help="Between two of them.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Default 20.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The same again is the same.")
@click.option("--step", "steps", metavar="STEP=SEC", multiple=True, callback=read_step,
              help="How long a step takes: SEC or FROM..TO, and :RATE for how often it fails.")
@click.option("--no-history", is_flag=True, help="Do not look at past runs.")
@click.option("--what-if", "factors", type=Number(min=0, min_open=True), multiple=True,
              metavar="FACTOR", help="The same with so many times the slots; default 2.")
@pass_session
def simulate(session: Session, reference: str | None, name: str | None, body: JsonObject,
             payload: Json, slots: int | None, runs: int | None, every: float | None,
             samples: int | None, seed: int | None, steps: dict[str, Json], no_history: bool,
             factors: tuple[float, ...]) -> None:
    """Say what a workflow would do: in virtual time, by the daemon's own rules."""
    asked: JsonObject = dict(body)
    if (reference is None) == (name is None) and not asked:
        raise click.UsageError("name a workflow, or a file with -f")
    if reference is not None:
        asked["workflowId"] = WORKFLOWS.find(session.client, reference)["workflowId"]
    elif name is not None:
        [(file, text)] = texts_of((name,))
        found = objects(json_of(session.client.request("POST", f"{BASE}/parse", {
            "name": file, "yaml": text})))
        if len(found) != 1:
            raise click.UsageError(f"{file} holds {len(found)} workflows; name one of one")
        asked["workflow"] = found[0]
    given: dict[str, Json] = {
        "workers": None if slots is None else [{"slots": slots}], "runs": runs, "everySec": every,
        "samples": samples, "seed": seed, "history": False if no_history else None,
        "whatIf": list(factors) or None, "steps": steps or None}
    asked |= {key: value for key, value in given.items() if value is not None}
    if payload is not NOTHING:
        asked["payload"] = payload
    show(session, object_of(session.client.request("POST", f"{BASE}/simulate", asked)))


def show(session: Session, found: JsonObject) -> None:
    """A forecast: figures, the chart of the middle sample, steps, other slots."""
    screen = session.screen
    if screen.output == "json":
        screen.json(found)
        return
    forecast = found["forecast"]
    assert isinstance(forecast, dict)
    makespan, chart = forecast["makespan"], forecast["gantt"]
    assert isinstance(makespan, dict)
    assert isinstance(chart, dict)
    if screen.output == "name":
        screen.write(word(makespan, "p50"))
        return
    screen.say(f"{word(forecast, 'samples')} samples on {word(found, 'slots')} slots: makespan "
               f"{number(makespan.get('p50')):g} s (p90 {number(makespan.get('p90')):g}, from "
               f"{number(makespan.get('min')):g} to {number(makespan.get('max')):g}), slots busy "
               f"{share(forecast.get('utilization'))}, ends {word(forecast, 'ends')}")
    if forecast.get("stopped"):
        screen.say(f"broken off: {word(forecast, 'stopped')}")
    bars = objects(chart.get("bars"))
    total = number(chart.get("makespanSec"))
    screen.say("")
    screen.show(table(bars[:ROWS], (
        column("STEP", "stepId"), column("STATE", "state"), column("READY", "readyAt"),
        column("START", "startedAt"), column("END", "finishedAt"),
        Column(f"0 to {total:g} s", lambda bar: bar_text(bar, total)))))
    if len(bars) > ROWS:
        screen.say(f"... and {len(bars) - ROWS} more; -o json shows them")
    screen.say("")
    screen.show(table(objects(forecast.get("steps")), STEPS))
    if others := objects(found.get("whatIf")):
        screen.say("")
        screen.show(table(others, OTHERS))


__all__ = ["group"]
