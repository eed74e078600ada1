"""plum broker ..."""

from __future__ import annotations

from typing import TextIO

import click

from plumd.cli.screen import column, moment, moment_column, word
from plumd.cli.session import PlumGroup, Session, each, given, pass_session
from plumd.sdk.client import JsonObject, object_of, part

BASE = "/v1/brokers"
COLUMNS = (column("NAME", "name"), column("URL", "url"), column("STATE", "state"),
           column("PROBLEM", "problem"), moment_column("UPDATED", "updatedAt"))


@click.group("broker", cls=PlumGroup)
def group() -> None:
    """Message brokers: where MQTT messages come from and go to."""


def show(session: Session, found: JsonObject) -> None:
    """One broker."""
    session.screen.item(found, "name", [
        ("Name", word(found, "name")), ("Version", word(found, "version")),
        ("URL", word(found, "url")), ("Client id", word(found, "clientId")),
        ("User", word(found, "user")), ("Password", word(found, "hasPassword")),
        ("State", word(found, "state")), ("Problem", word(found, "problem")),
        ("Updated", moment(found, "updatedAt")), ("Description", word(found, "description"))])


@group.command("list")
@pass_session
def list_(session: Session) -> None:
    """List brokers by name."""
    session.screen.items(session.client.items(BASE), "name", COLUMNS)


@group.command()
@click.argument("name", metavar="NAME")
@pass_session
def get(session: Session, name: str) -> None:
    """Show a broker and whether it is connected."""
    show(session, session.client.get_object(f"{BASE}/{part(name)}"))


@group.command()
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@click.option("--client-id", metavar="TEXT", help="Default: drawn once.")
@click.option("--user", metavar="NAME")
@click.option("--password-file", type=click.File(), metavar="FILE",
              help="Its first line is the password; - for stdin. Without it the old one is kept.")
@click.option("--description", metavar="TEXT")
@pass_session
def put(session: Session, name: str, url: str, client_id: str | None, user: str | None,
        password_file: TextIO | None, description: str | None) -> None:
    """Write a broker: mqtt://HOST[:1883] or mqtts://HOST[:8883]."""
    password = None if password_file is None else password_file.readline().rstrip("\r\n")
    body = given({"url": url, "clientId": client_id, "user": user, "password": password,
                  "description": description})
    show(session, object_of(session.client.request("PUT", f"{BASE}/{part(name)}", body)))


@group.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete brokers that nothing uses."""
    def remove(name: str) -> None:
        session.client.request("DELETE", f"{BASE}/{part(name)}")
        session.screen.say(f"deleted {name}")

    each(session, names, remove)
