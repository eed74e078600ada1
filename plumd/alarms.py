"""Alarms: rules about states of devices, watched as reports come in.

Rules and alarms are the store's; how near a rule is to being broken is memory's. After a restart
what is active is active still, each device's newest values are looked at once, and what had to hold
for a while begins its time anew. An alarm is written down after the report that raised it, or the
removal of its device; when the daemon dies between the two, that look finds it.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import trio

from plumd.clock import Clock
from plumd.devices import Devices, Live
from plumd.errors import NotFound, PlumError
from plumd.store import alarms, devices
from plumd.store.alarms import FOR_EVER
from plumd.store.precondition import ABSENT
from plumd.store.store import Call, Store, Tx, Write
from plumd.thresholds import Phase, Rule, Watch

log = logging.getLogger("plumd.alarms")
AGAIN_S: Final = 1.0
ACTIVE_MAX: Final = 100_000
LOOKS: Final = 100


class Change(NamedTuple):
    """An alarm to be written down: raised if there was none, else cleared."""

    rule_id: int
    device: str
    raised: bool
    value: str


class Alarms:
    """All rules and what they watch. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write, new_id: Callable[[], int],
                 registry: Devices) -> None:
        self.store = store
        self.clock = clock
        self.registry = registry
        self._write = write
        self._new_id = new_id
        self.rules: dict[int, Rule] = {}
        self.versions: dict[int, int] = {}
        self._by_state: dict[str, list[int]] = {}
        self._watches: dict[tuple[int, str], Watch] = {}
        self.active: dict[tuple[int, str], int] = {}
        """(rule, device) -> the alarm that is active, as it is on disk."""
        self._changes: list[Change] = []
        self._due: list[tuple[int, int, str]] = []
        self._saving = trio.Lock()
        self._wake = trio.Event()
        registry.reported = self.see
        registry.forgotten = self.forget

    def load(self) -> None:
        """Read rules and active alarms, and look at every device's newest values."""
        for number, version, rule in self.store.peek(alarms.rules):
            self.rules[number], self.versions[number] = rule, version
        self._index()
        for alarm in self.store.peek(alarms.page, "", True, FOR_EVER, ACTIVE_MAX):
            self.active[alarm.rule, alarm.device] = alarm.id
        self._watch_active(self.active)
        for live in self._meant(self.rules.values()):
            self._look_at(live)

    def _index(self) -> None:
        self._by_state = {}
        for number, rule in self.rules.items():
            self._by_state.setdefault(rule.state, []).append(number)

    def _meant(self, rules: Iterable[Rule]) -> list[Live]:
        """The devices that one of these watches."""
        wanted = list(rules)
        if not wanted:
            return []
        found = (seen.row.device for seen in self.registry.every())
        return [self.registry.find(one.device_id) for one in found
                if any(rule.means(one.device_id, one.type) for rule in wanted)]

    def _look_at(self, live: Live) -> None:
        """Its newest values, as if they came now."""
        newest = self.store.peek(devices.latest, live.row.number)
        self.see(live, {name: state.value for name, state in newest.items()
                        if name in self._by_state})

    # ------------------------------------------------------------ rules

    async def put_rule(self, number: int, rule: Rule,
                       also: Callable[[Tx], None] | None = None, *, known: bool = False,
                       if_version: int | None = None) -> None:
        """Write a rule; what it watches is looked at again. also: written in the same commit.

        known: only if it is there.  Raises: NotFound, VersionMismatch, and as Engine.write.
        """
        def write(tx: Tx) -> None:
            alarms.put_rule(tx, number, rule, if_version)
            if also is not None:
                also(tx)

        async with self._saving:
            if known and number not in self.rules:
                raise NotFound("no such rule")
            await self._save(number, write)

    async def delete_rule(self, number: int, if_version: int | None = None) -> None:
        """Forget a rule; what is active of it is over.

        Raises: NotFound, VersionMismatch, and as Engine.write.
        """
        async with self._saving:
            if number not in self.rules:
                raise NotFound("no such rule")
            mine = [alarm for key, alarm in self.active.items() if key[0] == number]
            await self._save(number, lambda tx: alarms.delete_rule(tx, number, mine, if_version))

    async def _save(self, number: int, write: Call) -> None:
        """Write a rule, or its end. Memory follows the row, also where the commit's end was unknown
        or whoever asked is gone."""
        with trio.CancelScope(shield=True):
            try:
                await self._write(write)
            finally:
                await self._read_back(number)

    async def _read_back(self, number: int) -> None:
        version, rule = self.store.peek(alarms.get_rule, number)
        if version == self.versions.get(number, ABSENT):
            return
        if rule is None:
            del self.rules[number], self.versions[number]
            self.active = {key: alarm for key, alarm in self.active.items() if key[0] != number}
        else:
            self.rules[number], self.versions[number] = rule, version
        self._index()
        self._begin_anew(number)
        for count, live in enumerate(self._meant([] if rule is None else [rule])):
            if not live.gone:
                self._look_at(live)
            if count % LOOKS == LOOKS - 1:
                await trio.lowlevel.checkpoint()    # others have their turn

    def _begin_anew(self, number: int) -> None:
        """The rule is another one now, or gone: how near it was to being broken says nothing, nor
        does what it was about to raise or clear."""
        for key in [key for key in self._watches if key[0] == number]:
            del self._watches[key]
        self._changes = [one for one in self._changes if one.rule_id != number]
        self._watch_active([key for key in self.active if key[0] == number])

    def _watch_active(self, keys: Iterable[tuple[int, str]]) -> None:
        """Values may clear these; of a device that is gone there are none any more."""
        known = {seen.row.device.device_id for seen in self.registry.every()}
        for key in keys:
            if key[1] in known:
                self._watches[key] = Watch(Phase.RAISED)
            else:
                self._changes.append(Change(*key, False, ""))
                self._wake.set()

    # ------------------------------------------------------------ from devices

    def see(self, live: Live, states: Mapping[str, str]) -> None:
        """A device reported these. Writes nothing itself."""
        if not self._by_state.keys() & states.keys():
            return
        device, now_ns = live.row.device, self.clock.now().mono_ns
        for name in self._by_state.keys() & states.keys():
            for number in self._by_state[name]:
                rule = self.rules[number]
                key = number, device.device_id
                if key in self.active or rule.means(device.device_id, device.type):
                    self._see(key, rule, states[name], now_ns)

    def _see(self, key: tuple[int, str], rule: Rule, value: str, now_ns: int) -> None:
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch()
        before = watch.phase
        if watch.see(rule, value, now_ns):
            self._note(key, watch)
        elif watch.phase is Phase.PENDING and before is not Phase.PENDING:
            due_ns = watch.due_ns(rule)
            assert due_ns is not None, "it is pending"
            heapq.heappush(self._due, (due_ns, *key))
            self._wake.set()
        if watch.phase is Phase.NORMAL and key not in self.active:
            del self._watches[key]

    def _note(self, key: tuple[int, str], watch: Watch) -> None:
        self._changes.append(Change(*key, watch.phase is Phase.RAISED, watch.value))
        self._wake.set()

    def forget(self, live: Live) -> None:
        """A device was removed: what is active of it is over."""
        device = live.row.device.device_id
        for key in [key for key in self._watches if key[1] == device]:
            watch = self._watches.pop(key)
            if watch.phase is Phase.RAISED:
                self._changes.append(Change(*key, False, ""))
                self._wake.set()

    # ------------------------------------------------------------ in the background

    async def run(self) -> None:
        """Write down what was raised and cleared, also by time alone. Until canceled."""
        while True:
            self._wake = trio.Event()
            now_ns = self.clock.now().mono_ns
            while self._due and self._due[0][0] <= now_ns:
                _, number, device = heapq.heappop(self._due)
                watch, rule = self._watches.get((number, device)), self.rules.get(number)
                if watch is not None and rule is not None and watch.tick(rule, now_ns):
                    self._note((number, device), watch)
            if self._changes:
                await self._store()
                continue
            if not self._due:
                await self._wake.wait()
                continue
            with trio.move_on_after((self._due[0][0] - now_ns) / 1e9):
                await self._wake.wait()

    async def _store(self) -> None:
        async with self._saving:
            changes, self._changes = self._changes, []
            after = dict(self.active)
            todo = list(self._wanted(changes, after))
            try:
                await self._write(lambda tx: self._carry_out(tx, todo))
            except PlumError as error:
                log.warning("alarms wait for the disk", extra={"reason": error.detail})
                self._changes = changes + self._changes
            else:
                self.active = after
                return
        await trio.sleep(AGAIN_S)

    def _wanted(self, changes: Iterable[Change],
                after: dict[tuple[int, str], int]) -> Iterable[tuple[Change, int, Rule]]:
        for one in changes:
            key, rule = (one.rule_id, one.device), self.rules.get(one.rule_id)
            if rule is None or one.raised == (key in after):
                continue        # the rule is gone, or this is known
            if one.raised:
                after[key] = self._new_id()
                yield one, after[key], rule
            else:
                yield one, after.pop(key), rule

    def _carry_out(self, tx: Tx, todo: Iterable[tuple[Change, int, Rule]]) -> None:
        for one, number, rule in todo:
            if one.raised:
                alarms.raised(tx, number, one.rule_id, rule, one.device, one.value)
            else:
                alarms.cleared(tx, number, rule, one.device, one.value)

    def statistics(self) -> dict[str, int]:
        """How many are active, by severity."""
        found = {"info": 0, "warning": 0, "critical": 0}
        for number, _ in self.active:
            rule = self.rules.get(number)
            if rule is not None:
                found[rule.severity] += 1
        return found


