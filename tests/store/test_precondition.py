"""Who writes what he makes of a row that he has looked at undoes nobody else's change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trio.testing import MockClock

from plumd.errors import VersionMismatch, WrongState
from plumd.store import brokers, precondition, triggers, webhooks
from plumd.store.brokers import BrokerBody
from plumd.store.precondition import ABSENT, ANY
from plumd.store.store import Tx
from plumd.store.triggers import TriggerBody
from plumd.store.webhooks import WebhookBody
from tests.fabric_rig import Disk


@pytest.mark.parametrize(("current", "wanted", "detail"), [
    (3, None, ""), (0, None, ""), (3, 3, ""), (3, ANY, ""), (0, ABSENT, ""),
    (3, 2, "the current version is 3, not 2"), (0, 2, "it is not there, not 2"),
    (0, ANY, "it is not there"), (3, ABSENT, "the current version is 3")])
def test_what_is_asked_for(current: int, wanted: int | None, detail: str) -> None:
    assert precondition.is_met(current, wanted) == (not detail)
    if not detail:
        precondition.check(current, wanted)
        return
    with pytest.raises(VersionMismatch) as caught:
        precondition.check(current, wanted)
    assert caught.value.detail == detail


def a_trigger(tx: Tx) -> Callable[[Tx], None]:
    triggers.create(tx, 1, TriggerBody("a", "event", "w"), "", "")
    old = triggers.get(tx.db, 1)
    assert old is not None
    return lambda late: triggers.update(late, old, old.body, "", "", None)


def a_webhook(tx: Tx) -> Callable[[Tx], None]:
    webhooks.create(tx, 1, WebhookBody("a", "http://x", ("kv",)), "s")
    old = webhooks.get(tx.db, 1)
    assert old is not None
    return lambda late: webhooks.update(late, old, old.body, old.secret, None)


def a_broker(tx: Tx) -> Callable[[Tx], None]:
    body = BrokerBody("mqtt://x", "me")
    brokers.put(tx, "a", None, body, "secret", None)
    old = brokers.get(tx.db, "a")
    return lambda late: brokers.put(late, "a", old, body, "secret", None)


@pytest.mark.parametrize("make", [a_trigger, a_webhook, a_broker])
async def test_the_second_of_two_who_looked_at_once_looks_again(
        tmp_path: Path, autojump_clock: MockClock,
        make: Callable[[Tx], Callable[[Tx], None]]) -> None:
    disk = Disk(tmp_path, autojump_clock)
    change = await disk.write(make)
    await disk.write(change)
    with pytest.raises(WrongState, match="somebody else"):
        await disk.write(change)
    disk.store.close()
