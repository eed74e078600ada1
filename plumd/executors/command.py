"""An os_process task's payload: what may stand in it, and the environment that a command gets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from plumd.errors import Invalid

GRACE_S_MAX: Final = 3600.0
COMMANDS_MAX: Final = 1_000
ENV_ALLOWED: Final = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME",
                                "SHELL", "TMPDIR"})
ENV_ALLOWED_PREFIX: Final = "LC_"
PATH_DEFAULT: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NOTHING: Final = msgspec.Raw(b"null")
_Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 62))]


class Limits(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What the whole tree of a command may use together; None = no limit.

    cpus: processors' worth of time, 0.5 = half of one.
    """

    memory_bytes: _Positive | None = None
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=65536)] | None = None
    pids: _Positive | None = None


Grace = Annotated[float, msgspec.Meta(ge=0, le=GRACE_S_MAX)]


class Command(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What to run, as argv: no shell takes part.

    command: a path, or a name to be found along PATH of the resulting environment.
    working_dir: absolute; "" = an empty directory of the attempt's own.
    input: for stdin, a string as it is, any other JSON value as JSON text.
    kill_grace_sec: between SIGTERM and SIGKILL when the task is stopped.
    name: what it is called in the result of a batch.
    """

    command: Annotated[str, msgspec.Meta(min_length=1)]
    args: tuple[str, ...] = ()
    working_dir: str = ""
    input: msgspec.Raw = _NOTHING
    env: dict[str, str] = {}
    kill_grace_sec: Grace = 10
    limits: Limits = Limits()
    name: str = ""

    @property
    def stdin(self) -> bytes | None:
        """The bytes for stdin; None when there are none."""
        raw = bytes(self.input)
        if raw == b"null":
            return None
        return msgspec.json.decode(raw, type=str).encode() if raw.startswith(b'"') else raw


class Batch(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Commands that run one after the other, under one shim.

    env, working_dir: for all that say nothing else.  stop_on_error: whether those behind one that
    fails do not run.  Grace and limits are the whole batch's.
    """

    commands: Annotated[tuple[Command, ...], msgspec.Meta(min_length=1, max_length=COMMANDS_MAX)]
    stop_on_error: bool = True
    working_dir: str = ""
    env: dict[str, str] = {}
    kill_grace_sec: Grace = 10
    limits: Limits = Limits()


def parse_command(payload: bytes) -> Command | Batch:
    """The command, or the batch of commands, that an os_process task's payload describes.

    Raises Invalid, with the field's path as in `payload.args[0]`.
    """
    kind: type[Command | Batch] = _kind_of(payload)
    try:
        found = msgspec.json.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise Invalid(text, field="payload" + path.rstrip("`")) from None
    except UnicodeDecodeError as error:
        raise Invalid(f"not JSON: {error}", field="payload") from None
    _check(found, "payload")
    if isinstance(found, Batch):
        for index, one in enumerate(found.commands):
            _check_one(one, f"payload.commands[{index}]")
    else:
        if found.name:
            raise Invalid("only commands of a batch have a name", field="payload.name")
        _check_one(found, "payload")
    return found


def _check(found: Command | Batch, field: str) -> None:
    """What commands and batches share. Raises: Invalid."""
    if found.working_dir and not found.working_dir.startswith("/"):
        raise Invalid("must be an absolute path", field=f"{field}.workingDir")
    _check_text(found.working_dir, f"{field}.workingDir")
    for name, value in found.env.items():
        if not re.fullmatch(r"[^=\0]+", name):
            raise Invalid("not a name for a variable", field=f"{field}.env.{name}")
        _check_text(name, f"{field}.env")
        _check_text(value, f"{field}.env.{name}")


def _check_one(command: Command, field: str) -> None:
    """Raises: Invalid."""
    _check(command, field)
    if field != "payload" and (command.limits != Limits() or command.kill_grace_sec != 10):
        raise Invalid("limits and killGraceSec are the whole batch's", field=field)
    _check_text(command.command, f"{field}.command")
    _check_text(command.name, f"{field}.name")
    for position, word in enumerate(command.args):
        _check_text(word, f"{field}.args[{position}]")
    try:
        command.stdin  # noqa: B018 - decoded once, to refuse what cannot be sent
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise Invalid("not a text that can be sent", field=f"{field}.input") from None


def _kind_of(payload: bytes) -> type[Command | Batch]:
    """A command, or a batch where there are commands; names every key that nobody would read,
    rather than the first one. Raises: Invalid."""
    try:
        keys = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise Invalid("must be an object with at least `command`", field="payload") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"not JSON: {error}", field="payload") from None
    kind: type[Command | Batch] = Batch if "commands" in keys else Command
    known = kind.__struct_encode_fields__
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise Invalid(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}",
                      field=f"payload.{unknown[0]}")
    return kind


def _check_text(text: str, field: str) -> None:
    """The kernel ends its strings with a NUL, and knows bytes only."""
    if "\0" in text:
        raise Invalid("must not hold a NUL character", field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("holds half a surrogate pair", field=field) from None


def base_environment(outer: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a command's environment starts from: of the daemon's own only what is harmless."""
    source = os.environ if outer is None else outer
    allowed = {name: value for name, value in source.items()
               if name in ENV_ALLOWED or name.startswith(ENV_ALLOWED_PREFIX)}
    return {"PATH": PATH_DEFAULT} | allowed
