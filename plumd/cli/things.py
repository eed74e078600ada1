"""What the commands of every kind of thing share that the daemon keeps under a name: list, get,
create, update, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import click

from plumd.cli.screen import Column, line
from plumd.cli.session import (
    Session,
    each,
    file_option,
    key_option,
    limit_option,
    named,
    pass_session,
)
from plumd.sdk.client import Client, JsonObject, object_of

Show: TypeAlias = Callable[[Session, JsonObject], None]

reference_argument = click.argument("reference", metavar="NAME|ID")
references_argument = click.argument("references", metavar="NAME|ID...", nargs=-1, required=True)


class Things:
    """A kind of thing. word, words: what people call one and several; base: the path of its list;
    key: the field with its id."""

    def __init__(self, group: click.Group, word: str, words: str, base: str, key: str,
                 columns: Sequence[Column], show: Show) -> None:
        self.group = group
        self.word = word
        self.words = words
        self.base = base
        self.key = key
        self.columns = columns
        self.show = show

    def find(self, client: Client, reference: str) -> JsonObject:
        """The thing that an id or a name means. Raises: ProblemError."""
        return named(client, self.base, self.word, reference)

    def path_of(self, found: JsonObject) -> str:
        """Where one is."""
        return f"{self.base}/{found[self.key]}"

    def path(self, client: Client, reference: str) -> str:
        """Where the thing is that an id or a name means. Raises: ProblemError."""
        return self.path_of(self.find(client, reference))

    def act(self, session: Session, reference: str, action: str, body: JsonObject | None = None,
            headers: Mapping[str, str] | None = None) -> JsonObject:
        """POST ?action=... on one; what is answered."""
        return object_of(session.client.request(
            "POST", self.path(session.client, reference), body, query={"action": action},
            headers=headers))

    def act_on_each(self, session: Session, references: Sequence[str], action: str) -> None:
        """The same on several, each shown."""
        each(session, references,
             lambda one: self.show(session, self.act(session, one, action)))

    def show_below(self, session: Session, reference: str, name: str, key: str,
                   columns: Sequence[Column], limit: int, state: str | None = None) -> None:
        """A list that belongs to one thing, like its versions. limit: 0 = all of it."""
        path = f"{self.path(session.client, reference)}/{name}"
        session.screen.items(session.client.items(path, {"state": state}, limit=limit or None),
                             key, columns)

    # ------------------------------------------------------------ commands

    def add_commands(self, *, create: str, update: str, delete: str) -> None:
        """list, get, create, update and delete, with these words about the last three."""
        self.add_list()
        self.add_get()
        self.add_create(create)
        self.add_update(update)
        self.add_delete(delete)

    def add_list(self) -> None:
        """The newest first."""
        @self.group.command("list", help=f"List {self.words}, newest first.")
        @limit_option
        @pass_session
        def list_(session: Session, limit: int) -> None:
            session.screen.items(session.client.items(self.base, limit=limit or None), self.key,
                                 self.columns)

    def add_get(self) -> None:
        """One."""
        @self.group.command("get", help=f"Show a {self.word}.")
        @reference_argument
        @pass_session
        def get(session: Session, reference: str) -> None:
            self.show(session, self.find(session.client, reference))

    def add_create(self, about: str) -> None:
        """From a file, once for a key."""
        @self.group.command("create", help=about)
        @file_option
        @key_option
        @pass_session
        def create(session: Session, body: JsonObject, key: str | None) -> None:
            headers = {} if key is None else {"Idempotency-Key": key}
            self.show(session, object_of(session.client.request("POST", self.base, body,
                                                                headers=headers)))

    def add_update(self, about: str) -> None:
        """From a file, if nobody was faster."""
        @self.group.command("update", help=about)
        @reference_argument
        @file_option
        @click.option("--if-version", type=click.IntRange(min=1), metavar="N",
                      help="Only if this is the current version; else exit with 5.")
        @pass_session
        def update(session: Session, reference: str, body: JsonObject,
                   if_version: int | None) -> None:
            headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
            path = self.path(session.client, reference)
            self.show(session, object_of(session.client.request("PUT", path, body,
                                                                headers=headers)))

    def add_delete(self, about: str) -> None:
        """Some, each by itself."""
        @self.group.command("delete", help=about)
        @references_argument
        @pass_session
        def delete(session: Session, references: tuple[str, ...]) -> None:
            def remove(reference: str) -> None:
                session.client.request("DELETE", self.path(session.client, reference))
                session.screen.say(f"deleted {line(reference)}")

            each(session, references, remove)
