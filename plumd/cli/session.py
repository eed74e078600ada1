"""What all commands share: the client, the screen, and the values that people type."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn, ParamSpec, TypeVar

import click

from plumd.cli.lean import load_transport
from plumd.cli.profiles import OUTPUTS, Profile, profile_of
from plumd.cli.screen import Screen, line
from plumd.sdk.client import NOTHING, Client, Json, JsonObject, ProblemError

P = ParamSpec("P")
T = TypeVar("T")

FAILED: Final = 1
STATES: Final = ("Queued", "Pending", "Running", "Retrying", "Succeeded", "Failed", "Timeout",
                 "Canceled")


class Session:
    """One call of the program."""

    def __init__(self) -> None:
        self.screen = Screen()
        self.server: str | None = None
        self.output: str | None = None
        self.profile: Profile | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The API. Raises: click.UsageError when the server's address is none."""
        if self._client is None:
            load_transport()
            try:
                self._client = Client(self.server or self._server_of_profile())
            except ValueError as error:
                raise click.UsageError(str(error)) from None
        return self._client

    def _server_of_profile(self) -> str | None:
        """One that was named comes before the environment, the file's default behind it."""
        profile = self.profile or Profile()
        said = os.environ.get("PLUM_SERVER") or os.environ.get("CONTROLLER_BASE")
        return profile.server if profile.asked or not said else None

    def settle(self) -> None:
        """Show things as the options say, else the profile."""
        of_profile = None if self.profile is None else self.profile.output
        self.screen.output = self.output or of_profile or "table"

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()


def _set_output(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    if value is not None:
        session = context.ensure_object(Session)
        session.output = value
        session.settle()


def _set_server(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    if value is not None:
        context.ensure_object(Session).server = value


def _set_profile(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    session = context.ensure_object(Session)
    if value is not None or session.profile is None:
        session.profile = profile_of(value)
        session.settle()


def shared_options() -> list[click.Parameter]:
    """The options that stand before or behind a command's name."""
    return [
        click.Option(["-o", "--output"], type=click.Choice(OUTPUTS), expose_value=False,
                     callback=_set_output, help="How to show it; default table."),
        click.Option(["--server"], metavar="URL", expose_value=False, callback=_set_server,
                     help="Default: PLUM_SERVER, CONTROLLER_BASE, http://127.0.0.1:8080."),
        click.Option(["--profile"], metavar="NAME", expose_value=False, callback=_set_profile,
                     help="Server and output from the file of profiles; default PLUM_PROFILE."),
    ]


class PlumCommand(click.Command):
    """A command with the shared options."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *shared_options()]


class PlumGroup(click.Group):
    """A noun; its verbs are PlumCommands."""

    command_class = PlumCommand
    group_class = type

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *shared_options()]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its whole first sentence, where Click cuts it off."""
        rows = [(name, found.get_short_help_str(limit=1_000))
                for name in self.list_commands(ctx) if (found := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


pass_session = click.make_pass_decorator(Session, ensure=True)


# ---------------------------------------------------------------- values

def read_payload(context: click.Context, parameter: click.Parameter, text: str | None) -> Json:
    """JSON from the command line, from @file, or from - (stdin); NOTHING when it is left out."""
    del context
    if text is None:
        return NOTHING
    if text == "-":
        text = read_stdin(parameter)
    elif text.startswith("@"):
        text = read_file(text[1:], parameter)
    return parse_json(text, parameter)


def read_body(context: click.Context, parameter: click.Parameter, name: str) -> JsonObject:
    """A JSON object from a file, or from - (stdin)."""
    del context
    found = parse_json(read_stdin(parameter) if name == "-" else read_file(name, parameter),
                       parameter)
    if not isinstance(found, dict):
        raise click.BadParameter("the file must hold a JSON object", param=parameter)
    return found


def read_optional(context: click.Context, parameter: click.Parameter,
                  name: str | None) -> JsonObject | None:
    """The same, None when it is left out."""
    return None if name is None else read_body(context, parameter, name)


def read_stdin(parameter: click.Parameter) -> str:
    """All of it."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"stdin is not UTF-8: {error}", param=parameter) from None


def read_file(name: str, parameter: click.Parameter) -> str:
    """All of a file."""
    try:
        return Path(name).read_bytes().decode()
    except OSError as error:
        raise click.BadParameter(f"{name}: {error.strerror}", param=parameter) from None
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{name} is not UTF-8: {error}", param=parameter) from None


def parse_json(text: str, parameter: click.Parameter) -> Json:
    """The value behind a JSON text."""
    try:
        value: Json = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)      # 1e999 is read as infinity
    except (ValueError, RecursionError) as error:
        text = text.strip()
        hint = f"; a text has quotes: '{json.dumps(text)}'" if text.isalnum() else ""
        raise click.BadParameter(f"this is not JSON: {error}{hint}", param=parameter) from None
    return value


class Number(click.FloatRange):
    """A number within bounds that can be told to the API: `nan` and `inf` cannot."""

    def convert(self, value: float, param: click.Parameter | None,
                ctx: click.Context | None) -> float:
        """What was typed. Raises: click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def read_pairs(context: click.Context, parameter: click.Parameter,
               texts: tuple[str, ...]) -> dict[str, str]:
    """key=value, as often as it is given."""
    del context
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{line(text)} is not written KEY=VALUE", param=parameter)
        found[key] = value
    return found


def payload_option(function: Callable[P, T]) -> Callable[P, T]:
    """-p, a JSON payload; NOTHING when it is left out."""
    return click.option("-p", "--payload", metavar="JSON", callback=read_payload,
                        help="JSON, or @FILE, or - for stdin.")(function)


def file_option(function: Callable[P, T]) -> Callable[P, T]:
    """-f, a file with a JSON object."""
    return click.option("-f", "--file", "body", metavar="FILE", callback=read_body, required=True,
                        help="A file with a JSON object, or - for stdin.")(function)


def label_option(function: Callable[P, T]) -> Callable[P, T]:
    """--label k=v, as often as wanted."""
    return click.option("--label", "labels", metavar="KEY=VALUE", multiple=True,
                        callback=read_pairs, help="A label; may be given several times.")(function)


def wait_options(function: Callable[P, T]) -> Callable[P, T]:
    """--wait and how long."""
    function = click.option("--wait-timeout", type=Number(min=0), metavar="SEC",
                            help="Wait so long at most, then exit with 124. Implies --wait.")(
                                function)
    return click.option("--wait", is_flag=True,
                        help="Wait for the end; exit with 1 unless it Succeeded.")(function)


def key_option(function: Callable[P, T]) -> Callable[P, T]:
    """--key, for asking again without doing again."""
    return click.option("--key", metavar="TEXT", help="Idempotency-Key: the same key again gives "
                        "the same answer and starts nothing new.")(function)


def limit_option(function: Callable[P, T]) -> Callable[P, T]:
    """--limit, 0 for all."""
    return click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True,
                        help="How many at most; 0 = all.")(function)


def given(fields: Mapping[str, Json]) -> JsonObject:
    """The fields that were set."""
    return {name: value for name, value in fields.items() if value is not None}


# ---------------------------------------------------------------- shared work

def named(client: Client, base: str, noun: str, reference: str) -> JsonObject:
    """The thing that an id or a name means. Raises: ProblemError not_found."""
    if 0 < len(reference) <= 16 and all(char in "0123456789abcdef" for char in reference):
        try:
            return client.get_object(f"{base}/{reference}")
        except ProblemError as problem:
            if problem.status != 404:
                raise
    found = client.get(base, {"name": reference})
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return found[0]
    raise ProblemError(404, "not_found", f"no such {noun}: {reference}")


def each(session: Session, references: Iterable[str], act: Callable[[str], None]) -> None:
    """Do something to each of several things; the first refusal is raised when all had a turn."""
    references = list(references)
    first: ProblemError | None = None
    for reference in references:
        try:
            act(reference)
        except ProblemError as problem:
            if len(references) > 1:     # which of them it was
                problem = named_problem(problem, reference)
            if first is not None:
                session.screen.complain(str(problem))
            first = first or problem
    if first is not None:
        raise first


def named_problem(problem: ProblemError, reference: str) -> ProblemError:
    """The same refusal, of this thing."""
    named = ProblemError(problem.status, problem.code, problem.detail, problem.field,
                         problem.retry_after_s, problem.document)
    named.args = (f"{line(reference)}: {problem}",)
    return named


def exit_code(item: JsonObject) -> int:
    """What the end of a task or run means for a shell."""
    return 0 if item.get("state") == "Succeeded" else FAILED
