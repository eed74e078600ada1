"""plum lock ..., also as plum kv lock ..."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

import click

from plumd.cli.screen import column, moment_column, word
from plumd.cli.session import Number, PlumGroup, Session, limit_option, pass_session
from plumd.sdk.client import JsonObject, object_of
from plumd.sdk.locks import TTL_S, Lock, LockLost, acquire, lock_path, locked, wished

COLUMNS = (
    column("NAMESPACE", "namespace"), column("NAME", "name"), column("OWNER", "owner"),
    column("TOKEN", "token"), moment_column("SINCE", "acquiredAt"),
    moment_column("EXPIRES", "expiresAt"), column("WAITING", "waiting"),
)
LOST = 5


@click.group("lock", cls=PlumGroup)
def group() -> None:
    """Locks: one owner at a time, with tokens that only grow."""


namespace_option = click.option("-n", "--namespace", default="default", show_default=True,
                                help="Whose lock.")
name_argument = click.argument("name", metavar="NAME")
token_argument = click.argument("token", metavar="TOKEN", type=click.IntRange(min=1))
owner_option = click.option("--owner", metavar="TEXT",
                            help="Who wants it; default this machine and process.")
ttl_option = click.option("--ttl", type=Number(min=0.1), metavar="SEC", default=TTL_S,
                          show_default=True, help="It is lost when its owner is silent for so "
                          "long.")
wait_option = click.option("--wait", type=Number(min=0), metavar="SEC",
                           help="Wait for it so long at most.")


def owner_of(given: str | None) -> str:
    """Who this command speaks for."""
    return given or f"{socket.gethostname()}:{os.getpid()}"


@group.command("list")
@click.option("-n", "--namespace", help="Only of this one.")
@limit_option
@pass_session
def list_locks(session: Session, namespace: str | None, limit: int) -> None:
    """List locks that somebody has."""
    found = session.client.items("/v1/locks", {"namespace": namespace}, limit=limit or None)
    session.screen.items(found, "name", COLUMNS)


def show(session: Session, lock: JsonObject) -> None:
    """The token, or all of it."""
    if session.screen.output == "table":
        session.screen.write(word(lock, "token"))
    else:
        session.screen.item(lock, "token", ())


@group.command("acquire")
@name_argument
@namespace_option
@owner_option
@ttl_option
@wait_option
@pass_session
def acquire_lock(session: Session, name: str, namespace: str, owner: str | None, ttl: float,
                 wait: float | None) -> None:
    """Get a lock and print its token; renew it before its time is over.

    Exit code 5: another has it.
    """
    patience_s = wait or 0.0
    session.client.follow(acquire(wished(namespace, name, ttl, patience_s, owner_of(owner)),
                                  time.monotonic() + patience_s))
    show(session, session.client.get_object(lock_path(namespace, name)))


@group.command("renew")
@name_argument
@token_argument
@namespace_option
@click.option("--ttl", type=Number(min=0.1), metavar="SEC", help="From now on so long.")
@pass_session
def renew_lock(session: Session, name: str, token: int, namespace: str,
               ttl: float | None) -> None:
    """Keep a lock for another time; exit code 5: it was lost."""
    body: JsonObject = {"token": token}
    if ttl is not None:
        body["ttlSec"] = ttl
    show(session, object_of(session.client.request("POST", lock_path(namespace, name), body,
                                                   query={"action": "renew"})))


@group.command("release")
@name_argument
@token_argument
@namespace_option
@pass_session
def release_lock(session: Session, name: str, token: int, namespace: str) -> None:
    """Give a lock up; exit code 5: it was lost already."""
    session.client.request("POST", lock_path(namespace, name), {"token": token},
                           query={"action": "release"})
    session.screen.say(f"released {name}")


@group.command("take-away")
@name_argument
@namespace_option
@pass_session
def take_away(session: Session, name: str, namespace: str) -> None:
    """Take a lock away from whoever has it; what its token writes is refused from then on."""
    session.client.request("DELETE", lock_path(namespace, name))
    session.screen.say(f"nobody has {name} now")


@group.command("run", context_settings={"ignore_unknown_options": True})
@name_argument
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@namespace_option
@owner_option
@ttl_option
@wait_option
@pass_session
@click.pass_context
def run_locked(context: click.Context, session: Session, name: str, words: tuple[str, ...],
               namespace: str, owner: str | None, ttl: float, wait: float | None) -> None:
    """Wait for a lock, and run a command while having it; the exit code is the command's.

    The command gets PLUM_LOCK, PLUM_LOCK_NAMESPACE and PLUM_LOCK_TOKEN. When the lock is lost the
    command gets SIGTERM, and the exit code is 5. Write `--` before a command with options.
    """
    wish = wished(namespace, name, ttl, wait, owner_of(owner))
    with locked(session.client, wish) as lock:
        code = carry(session, lock, namespace, words)
    context.exit(code)


def carry(session: Session, lock: Lock, namespace: str, words: Sequence[str]) -> int:
    """Run the command to its end, or to that of the lock; its exit code."""
    try:
        process = subprocess.Popen(words, env=os.environ | {
            "PLUM_LOCK": lock.name, "PLUM_LOCK_NAMESPACE": namespace,
            "PLUM_LOCK_TOKEN": str(lock.token)})
    except OSError as error:
        session.screen.complain(f"{words[0]}: {error.strerror}")
        return 127

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        while True:
            try:
                code = process.wait(min(1.0, lock.beat_s))
            except subprocess.TimeoutExpired:
                try:
                    lock.check()
                except LockLost as lost:
                    session.screen.complain(str(lost))
                    process.terminate()
                    process.wait()
                    return LOST
            else:
                return code if code >= 0 else 128 - code
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
