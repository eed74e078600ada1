"""plum kv ..."""

from __future__ import annotations

import base64
import binascii
import sys
from itertools import islice
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from plumd.cli import locks
from plumd.cli.screen import clean, column, line, moment_column, word
from plumd.cli.session import Number, PlumGroup, Session, each, limit_option, pass_session
from plumd.sdk.client import Json, JsonObject, part
from plumd.sdk.keys import Change, condition, encoded, path_of
from plumd.sdk.wire import object_of

TYPES: Final = ("string", "int", "double", "bool", "bytes")
COLUMNS: Final = (
    column("KEY", "key"), column("VALUE", "value"), column("TYPE", "type"),
    column("VERSION", "version"), moment_column("UPDATED", "updatedAt"),
    moment_column("EXPIRES", "expiresAt"),
)


@click.group("kv", cls=PlumGroup)
def group() -> None:
    """Keys and their values, by namespace."""


group.add_command(locks.group)

type_option = click.option("--type", "kind", type=click.Choice(TYPES), default="string",
                           show_default=True, help="What the value is.")
ttl_option = click.option("--ttl", type=Number(min=0, min_open=True), metavar="SEC",
                          help="It is gone after so long.")
namespace_argument = click.argument("namespace", metavar="NAMESPACE")
key_argument = click.argument("key", metavar="KEY")
value_argument = click.argument("value", metavar="VALUE")
prefix_option = click.option("--prefix", default="", help="Only keys that begin like this.")


def value_of(given: str, kind: str) -> str:
    """VALUE, @FILE or - as the wire has it. Raises: click.BadParameter."""
    if given == "-":
        data = sys.stdin.buffer.read()
    elif given.startswith("@"):
        try:
            data = Path(given[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"{given[1:]}: {error.strerror}",
                                     param_hint="VALUE") from None
    else:
        return given
    if kind == "bytes":
        return base64.b64encode(data).decode()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"this is not UTF-8 (take --type bytes): {error}",
                                 param_hint="VALUE") from None
    return text if kind == "string" else text.strip()


def write(session: Session, namespace: str, key: str, value: str, kind: str, ttl: float | None,
          version: int | None) -> None:
    """Write a key and show its version."""
    body: JsonObject = {"value": value_of(value, kind), "type": kind}
    if ttl is not None:
        body["ttlSec"] = ttl
    done = object_of(session.client.request("PUT", path_of(namespace, key), body,
                                            headers=condition(version)))
    if session.screen.output == "table":
        session.screen.say(f"{key} is at version {word(done, 'version')}")
    else:
        session.screen.item(done, "key", ())


@group.command("list")
@click.argument("namespace", metavar="[NAMESPACE]", required=False)
@prefix_option
@limit_option
@pass_session
def list_keys(session: Session, namespace: str | None, prefix: str, limit: int) -> None:
    """List the keys of NAMESPACE with their values, or all namespaces."""
    if namespace is not None:
        found = session.client.items(f"/v1/kv/{part(namespace)}", {"prefix": prefix or None},
                                     limit=limit or None)
        session.screen.items(found, "key", COLUMNS)
        return
    names = session.client.get_object("/v1/kv").get("namespaces")
    items: list[JsonObject] = [{"namespace": name} for name in (
        names if isinstance(names, list) else ())]
    session.screen.items(items, "namespace", (column("NAMESPACE", "namespace"),))


@group.command("get")
@namespace_argument
@key_argument
@click.option("--raw", is_flag=True, help="The value alone, byte for byte; bytes are decoded.")
@pass_session
def get_key(session: Session, namespace: str, key: str, raw: bool) -> None:
    """Show a key's value; with -o json all about it."""
    entry = session.client.get_object(path_of(namespace, key))
    if raw:
        sys.stdout.buffer.write(raw_value(entry))
        sys.stdout.buffer.flush()
    elif session.screen.output == "table":
        session.screen.write(clean(str(entry.get("value"))))
    else:
        session.screen.item(entry, "key", ())


def raw_value(entry: JsonObject) -> bytes:
    """A value's bytes."""
    text = str(entry.get("value"))
    if entry.get("type") == "bytes":
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            return text.encode()
    return text.encode()


@group.command("put")
@namespace_argument
@key_argument
@value_argument
@type_option
@ttl_option
@pass_session
def put_key(session: Session, namespace: str, key: str, value: str, kind: str,
            ttl: float | None) -> None:
    """Write a key. VALUE is a text, @FILE, or - for stdin."""
    write(session, namespace, key, value, kind, ttl, None)


@group.command("cas")
@namespace_argument
@key_argument
@click.argument("version", type=click.IntRange(min=0), metavar="VERSION")
@value_argument
@type_option
@ttl_option
@pass_session
def cas_key(session: Session, namespace: str, key: str, version: int, value: str, kind: str,
            ttl: float | None) -> None:
    """Write a key only if it is at VERSION; 0 = only if it is not there. Else exit with 5."""
    write(session, namespace, key, value, kind, ttl, version)


@group.command("delete")
@namespace_argument
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--if-version", type=click.IntRange(min=1), metavar="N",
              help="Only if it is at this version.")
@pass_session
def delete_keys(session: Session, namespace: str, keys: tuple[str, ...],
                if_version: int | None) -> None:
    """Delete keys; those that are not there are deleted already."""
    def remove(key: str) -> None:
        session.client.request("DELETE", path_of(namespace, key), headers=condition(if_version))
        session.screen.say(f"deleted {key}")

    each(session, keys, remove)


@group.command("clear")
@namespace_argument
@prefix_option
@pass_session
def clear_keys(session: Session, namespace: str, prefix: str) -> None:
    """Delete all keys of NAMESPACE, or those that begin with a prefix."""
    done = object_of(session.client.request("DELETE", f"/v1/kv/{part(namespace)}",
                                            query={"prefix": prefix or None}))
    session.screen.say(f"deleted {word(done, 'deleted')} keys")


@group.command()
@namespace_argument
@prefix_option
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@pass_session
def watch(session: Session, namespace: str, prefix: str, count: int | None) -> None:
    """Show what is there, and then every change; goes on through restarts of the daemon."""
    from plumd.sdk.kv import KV  # it brings Trio along, which the other commands do without

    # The watch itself would dial for ever: what is wrong from the beginning is said at once.
    session.client.request("GET", f"/v1/kv/{part(namespace)}/keys", query={"limit": 1})
    changes = KV(namespace, session.client).watch(prefix)
    for change in islice(changes, count):
        show_change(session, change)


def show_change(session: Session, change: Change) -> None:
    """One line."""
    if session.screen.output == "name":
        session.screen.write(line(change.key))
        return
    entry = change.entry
    kind, text = ("string", "") if entry is None else encoded(entry.value)
    if session.screen.output == "json":
        said: dict[str, Json] = {"key": change.key, "version": change.version}
        said |= {"deleted": True} if entry is None else {"type": kind, "value": text}
        session.screen.json(said, indent=None)
        return
    words = ("deleted", "red") if entry is None else (line(text), "")
    session.screen.out.print(Text.assemble(f"{change.version:>6} {line(change.key)} ", words),
                             soft_wrap=True)
    session.screen.out.file.flush()
