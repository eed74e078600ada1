"""plum deployment ..."""

from __future__ import annotations

from typing import Final

import click

from plumd.cli.instances import INSTANCES
from plumd.cli.screen import Column, column, moment, moment_column, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    file_option,
    limit_option,
    named,
    pass_session,
)
from plumd.sdk.client import Json, JsonObject, part

BASE: Final = "/v1/deployments"


def ready(item: JsonObject) -> str:
    """`2/3`"""
    return f"{word(item, 'ready')}/{word(item, 'wanted')}"


def rollout_of(item: JsonObject) -> str:
    """`rolling to 4`, `returned: it failed`"""
    found = item.get("rollout")
    if not isinstance(found, dict):
        return ""
    why = word(found, "why")
    return f"{word(found, 'state')} (version {word(found, 'version')})" + (
        f": {why}" if why else "")


COLUMNS: Final = (
    column("ID", "deploymentId"), column("NAME", "name"), column("STATE", "state"),
    Column("READY", ready), column("VERSION", "version"), Column("ROLLOUT", rollout_of),
    moment_column("UPDATED", "updatedAt"),
)
PLAN: Final = (column("ENTRY", "entry"), column("#", "ordinal"), column("NODE", "nodeId"),
               column("WHY", "why"))
VERSIONS: Final = (column("VERSION", "version"), column("NOTE", "note"),
                   moment_column("CREATED", "createdAt"))


@click.group("deployment", cls=PlumGroup)
def group() -> None:
    """Deployments: programs that are kept running on nodes."""


def find(session: Session, reference: str) -> JsonObject:
    """By id, or by a name that only one has. Raises: click.UsageError."""
    found = named(session.client, BASE, "deployment", reference)
    if found.get("deploymentId") != reference:
        same = list(session.client.items(BASE, {"name": reference}, limit=2))
        if len(same) > 1:
            raise click.UsageError(f"several deployments have the name {reference}; say an ID")
    return found


def path_of(session: Session, reference: str) -> str:
    """The address of a deployment."""
    return f"{BASE}/{part(word(find(session, reference), 'deploymentId'))}"


def show(session: Session, item: JsonObject) -> None:
    """A card."""
    waits = item.get("waits")
    rows = [("deployment", word(item, "deploymentId")), ("name", word(item, "name")),
            ("state", word(item, "state")), ("version", word(item, "version")),
            ("ready", ready(item)), ("failed", word(item, "failed") if item.get("failed") else ""),
            ("on partition", word(item, "onPartition")), ("rollout", rollout_of(item)),
            ("updated", moment(item, "updatedAt"))]
    rows += [(f"{word(one, 'entry')} {word(one, 'ordinal')} waits", word(one, "why"))
             for one in (waits if isinstance(waits, list) else ()) if isinstance(one, dict)]
    session.screen.item(item, "deploymentId", rows)


@group.command("list")
@click.option("--name", help="Only those with this name.")
@limit_option
@pass_session
def list_deployments(session: Session, name: str | None, limit: int) -> None:
    """List deployments, newest first."""
    session.screen.items(session.client.items(BASE, {"name": name}, limit=limit or None),
                         "deploymentId", COLUMNS)


@group.command("get")
@click.argument("reference", metavar="ID|NAME")
@pass_session
def get_deployment(session: Session, reference: str) -> None:
    """Show a deployment, and why something of it waits."""
    show(session, session.client.get_object(path_of(session, reference)))


@group.command("create")
@file_option
@click.option("--start", is_flag=True, help="Let it run at once.")
@pass_session
def create(session: Session, body: JsonObject, start: bool) -> None:
    """Create a deployment from a file; it does not run yet."""
    made: JsonObject = session.client.request("POST", BASE, body).json()
    path = f"{BASE}/{part(word(made, 'deploymentId'))}"
    show(session, session.client.act(path, "start") if start
         else session.client.get_object(path))


@group.command("update")
@click.argument("reference", metavar="ID|NAME")
@file_option
@click.option("--if-version", type=click.IntRange(min=1), help="Only if this is its version.")
@pass_session
def update(session: Session, reference: str, body: JsonObject, if_version: int | None) -> None:
    """Write a deployment anew; what runs follows, copy by copy."""
    headers = {"If-Match": f'"{if_version}"'} if if_version is not None else {}
    show(session, session.client.request("PUT", path_of(session, reference), body,
                                         headers=headers).json())


@group.command("plan")
@file_option
@click.option("--of", "reference", metavar="ID|NAME", help="As a new version of this one.")
@pass_session
def plan(session: Session, body: JsonObject, reference: str | None) -> None:
    """What would go where, and why not; nothing is changed."""
    query = None if reference is None else {
        "deploymentId": word(find(session, reference), "deploymentId")}
    found: JsonObject = session.client.request("POST", f"{BASE}/plan", body, query=query).json()
    if session.screen.output == "json":
        session.screen.json(found)
        return
    items = found.get("instances")
    session.screen.items([one for one in (items if isinstance(items, list) else ())
                          if isinstance(one, dict)], "nodeId", PLAN)


def act(session: Session, references: tuple[str, ...], action: str) -> None:
    """An action on several deployments."""
    each(session, references, lambda reference: show(
        session, session.client.act(path_of(session, reference), action)))


@group.command("start")
@click.argument("references", metavar="ID|NAME...", nargs=-1, required=True)
@pass_session
def start(session: Session, references: tuple[str, ...]) -> None:
    """Let deployments run."""
    act(session, references, "start")


@group.command("stop")
@click.argument("references", metavar="ID|NAME...", nargs=-1, required=True)
@pass_session
def stop(session: Session, references: tuple[str, ...]) -> None:
    """End all instances of deployments."""
    act(session, references, "stop")


@group.command("scale")
@click.argument("reference", metavar="ID|NAME")
@click.argument("replicas", type=click.IntRange(min=0))
@click.option("--entry", help="Which one, where there are several.")
@pass_session
def scale(session: Session, reference: str, replicas: int, entry: str | None) -> None:
    """Run so many copies of an entry, wherever they fit."""
    body: dict[str, Json] = {"replicas": replicas}
    if entry is not None:
        body["entry"] = entry
    show(session, session.client.request("POST", path_of(session, reference), body,
                                         query={"action": "scale"}).json())


@group.command("rollback")
@click.argument("reference", metavar="ID|NAME")
@click.option("--version", type=click.IntRange(min=1), help="Default: the one before.")
@pass_session
def rollback(session: Session, reference: str, version: int | None) -> None:
    """Make an older version the newest one."""
    body: dict[str, Json] = {} if version is None else {"version": version}
    show(session, session.client.request("POST", path_of(session, reference), body,
                                         query={"action": "rollback"}).json())


@group.command("instances")
@click.argument("reference", metavar="ID|NAME")
@pass_session
def list_instances(session: Session, reference: str) -> None:
    """List a deployment's instances."""
    session.screen.items(session.client.items(f"{path_of(session, reference)}/instances"),
                         "instanceId", INSTANCES)


@group.command("versions")
@click.argument("reference", metavar="ID|NAME")
@limit_option
@pass_session
def versions(session: Session, reference: str, limit: int) -> None:
    """List what it said over time, newest first."""
    session.screen.items(session.client.items(f"{path_of(session, reference)}/versions",
                                              limit=limit or None), "version", VERSIONS)


@group.command("delete")
@click.argument("references", metavar="ID|NAME...", nargs=-1, required=True)
@pass_session
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete deployments; their instances end."""
    def one(reference: str) -> None:
        session.client.request("DELETE", path_of(session, reference))
        session.screen.say(f"{reference}: deleted")

    each(session, references, one)
