"""plum app ..."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from plumd.cli.screen import column, moment, moment_column, names, word
from plumd.cli.session import PlumGroup, Session, each, limit_option, pass_session
from plumd.sdk.client import JsonObject, part

BASE: Final = "/v1/apps"
PIECE_BYTES: Final = 256 << 10
COLUMNS: Final = (
    column("ID", "artifactId"), column("NAME", "name"), column("VERSION", "version"),
    column("BYTES", "sizeBytes"), column("URL", "url"), moment_column("CREATED", "createdAt"),
)


@click.group("app", cls=PlumGroup)
def group() -> None:
    """Apps: uploaded programs that deployments run."""


def card(app: JsonObject) -> list[tuple[str, str]]:
    """An app's rows."""
    return [("app", word(app, "artifactId")), ("name", word(app, "name")),
            ("version", word(app, "version")), ("url", word(app, "url")),
            ("sha256", word(app, "sha256")), ("bytes", word(app, "sizeBytes")),
            ("services", names({"ports": [
                f"{one.get('service')}:{one.get('protocol')}:{one.get('port')}"
                for one in found if isinstance(one, dict)] if isinstance(
                    found := app.get("ports"), list) else []}, "ports")),
            ("created", moment(app, "createdAt"))]


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """A file, some at a time."""
    while piece := file.read(PIECE_BYTES):
        yield piece


@group.command("upload")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False,
                                                        path_type=Path))
@pass_session
def upload(session: Session, path: Path) -> None:
    """Upload a zip that has start.sh and meta.ini at its root."""
    with path.open("rb") as file:
        app = session.client.upload(BASE + "/upload", pieces(file), path.stat().st_size)
    session.screen.item(app, "artifactId", card(app))


@group.command("list")
@click.option("--name", help="Only versions of this app.")
@limit_option
@pass_session
def list_apps(session: Session, name: str | None, limit: int) -> None:
    """List apps, newest first."""
    session.screen.items(session.client.items(BASE, {"name": name}, limit=limit or None),
                         "artifactId", COLUMNS)


@group.command("get")
@click.argument("app_id", metavar="ID")
@pass_session
def get_app(session: Session, app_id: str) -> None:
    """Show an app."""
    app = session.client.get_object(f"{BASE}/{part(app_id)}")
    session.screen.item(app, "artifactId", card(app))


@group.command("delete")
@click.argument("app_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, app_ids: tuple[str, ...]) -> None:
    """Delete apps that no deployment uses."""
    def one(app_id: str) -> None:
        session.client.request("DELETE", f"{BASE}/{part(app_id)}")
        session.screen.say(f"{app_id}: deleted")

    each(session, app_ids, one)
