"""plum workflow apply, diff and export: workflows as YAML files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from plumd.cli.screen import Column, column, json_text, line, word
from plumd.cli.session import Session, pass_session
from plumd.cli.workflows import BASE, WORKFLOWS, group
from plumd.sdk.client import Json, JsonObject, object_of
from plumd.sdk.wire import json_of

DIFFERENT = 1
SUFFIXES = (".yaml", ".yml")
APPLIED = (column("NAME", "name"), column("CHANGE", "change"), column("VERSION", "version"),
           column("ID", "workflowId"))
CHANGES = (
    column("PLACE", "path"), column("WHAT", "what"),
    Column("BEFORE", lambda item: short(item.get("before"))),
    Column("AFTER", lambda item: short(item.get("after"))),
)
files_option = click.option("-f", "--file", "names", metavar="FILE|DIR", multiple=True,
                            help="A YAML file, a directory of them, or - for stdin; may be given "
                            "several times.")


def short(value: Json) -> str:
    """A value in a cell."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json_text(value, indent=None)
    return line(text if len(text) <= 120 else text[:117] + "...")


def texts_of(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(file, text) of all that is named. Raises: click.UsageError."""
    found: list[tuple[str, str]] = []
    for name in names:
        if name == "-":
            found.append(("stdin", decoded("stdin", sys.stdin.buffer.read())))
            continue
        path = Path(name)
        paths = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES) \
            if path.is_dir() else [path]
        if not paths:
            raise click.UsageError(f"{name} holds no {' or '.join(SUFFIXES)} file")
        for one in paths:
            try:
                found.append((str(one), decoded(str(one), one.read_bytes())))
            except OSError as error:
                raise click.UsageError(f"{one}: {error.strerror}") from None
    if not found:
        raise click.UsageError("name a file or directory with -f")
    return found


def decoded(name: str, data: bytes) -> str:
    """Raises: click.UsageError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name} is not UTF-8: {error}") from None


def asked(session: Session, names: tuple[str, ...], *, dry_run: bool) -> list[JsonObject]:
    """What saving does, or would do."""
    files: list[Json] = [{"name": line(name)[:500], "yaml": text} for name, text in texts_of(names)]
    found = json_of(session.client.request("POST", f"{BASE}/apply", {
        "files": files, "dryRun": dry_run}))
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


@group.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@pass_session
def apply(session: Session, names: tuple[str, ...], dry_run: bool) -> None:
    """Save workflows from YAML files by their names: all of them, or none."""
    session.screen.items(asked(session, names, dry_run=dry_run), "workflowId", APPLIED)


@group.command()
@click.argument("reference", metavar="[NAME|ID]", required=False)
@files_option
@click.option("--from", "from_", type=click.IntRange(min=1), metavar="N", help="The older version.")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="The newer version.")
@pass_session
def diff(session: Session, reference: str | None, names: tuple[str, ...], from_: int | None,
         to: int | None) -> int:
    """What files would change (-f), or what changed between two versions; exit with 1 if anything.
    """
    if (reference is None) == (not names):
        raise click.UsageError("name a workflow, or files with -f")
    found: list[JsonObject] = []
    if reference is not None:
        made = object_of(session.client.request(
            "GET", WORKFLOWS.path(session.client, reference) + "/diff",
            query={"from": from_, "to": to}))
        found = changes_of(made)
    else:
        for one in asked(session, names, dry_run=True):
            name = word(one, "name")
            if one["change"] == "created":
                found.append({"path": name, "what": "created"})
            found += [{**change, "path": f"{name}: {change['path']}"}
                      for change in changes_of(one)]
    session.screen.items(found, "path", CHANGES)
    return DIFFERENT if found else 0


def changes_of(item: JsonObject) -> list[JsonObject]:
    """The changes in an answer."""
    found = item.get("changes")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


@group.command()
@click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="A past version.")
@pass_session
def export(session: Session, references: tuple[str, ...], version: int | None) -> None:
    """Write workflows as YAML; `apply` of that changes nothing."""
    for reference in references:
        answer = session.client.request(
            "GET", WORKFLOWS.path(session.client, reference) + "/export",
            query={"version": version})
        if len(references) > 1:
            session.screen.write("---")
        session.screen.write(answer.text.rstrip("\n"))


__all__ = ["group"]
