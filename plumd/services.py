"""The live registry of services: who is registered is the store's, who is well is known here.

A heartbeat writes nothing. Registrations, changes and removals are decided on rows, inside a
commit; afterwards memory is read back from them, so it can lag behind the disk for a moment but
never say something else. Every endpoint is believed to be well for some time after it was heard of,
and after a restart for that time anew: one TTL; one that we look at for HOLD_TTLS, for looks that
come late have found nothing wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
import trio

from plumd import balance
from plumd.balance import Endpoint, Key, Load
from plumd.breaker import Policy
from plumd.clock import Clock, Instant, draw_seed
from plumd.errors import NotFound, PlumError
from plumd.health import ACTIVE, HOLD_TTLS, NOBODY, Health, Vouch
from plumd.model import Cause
from plumd.service_calls import ServiceCalls
from plumd.store import services
from plumd.store.store import Store, Tx, Write

T = TypeVar("T")
TTL_S: Final = 15.0
SUSPECT_NS: Final = 5_000_000_000
AGAIN_S: Final = 1.0
BREAKER_NEWS_MAX: Final = 1_000
LATE_S: Final = 0.001
"""Woken a hair too early, an expiry would not be seen, and be waited for again at once."""


class Seen(msgspec.Struct, frozen=True):
    """An endpoint and how it is. seen_ms: its last sign of life, 0 = none since our start.

    why: what our own last look at it found wrong.
    """

    endpoint: Endpoint
    healthy: bool
    seen_ms: int
    why: str = ""
    in_flight: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """What a heartbeat says of endpoints: those of its instance that match; "" and 0 match all."""

    service: str
    ip: str
    port: int
    protocol: str
    healthy: bool

    def means(self, endpoint: Endpoint) -> bool:
        """Whether it speaks of this endpoint."""
        return (endpoint.service == self.service and self.ip in ("", endpoint.ip)
                and self.port in (0, endpoint.port)
                and self.protocol.lower() in ("", endpoint.protocol.lower()))


class Live:
    """What memory knows of an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.renewed_ns = 0             # so long it is well by its own signs of life
        self.beat_ms = 0
        self.vouch = NOBODY             # who looks at it again and again, and found it well
        self.reported = True        # its instance says that it is well
        self.checked = True         # our own last look found it well
        self.why = ""               # what it found wrong
        self.told = True            # what the last event said
        self.suspect_ns = 0
        self.check_ns = 0           # no check before this time
        self.load = Load()

    @property
    def watched(self) -> bool:
        """Whether it needs no heartbeat: we look, again and again."""
        return self.endpoint.labels.get("healthCheck", "") in ACTIVE

    @property
    def accepts(self) -> bool:
        """Whether there is a connection to be made, by which one sees that somebody is there."""
        return self.endpoint.protocol.lower() != "udp"

    @property
    def expires_ns(self) -> int:
        """When it is no longer believed to be well, unless there is another sign of it."""
        return max(self.renewed_ns, self.vouch.until_ns)

    @property
    def seen_ms(self) -> int:
        """Its last sign of life, 0 = none since our start."""
        return max(self.beat_ms, self.vouch.seen_ms)

    def vouched_by(self, vouch: Vouch) -> None:
        """Somebody else's word counts from now on."""
        self.beat_ms = self.seen_ms
        self.vouch = vouch

    def healthy(self, now_ns: int) -> bool:
        """Whether it is believed to be well."""
        return self.reported and self.checked and (
            now_ns < self.renewed_ns or now_ns < self.vouch.until_ns)


class Registry:
    """All endpoints of all services. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write, ttl_s: float = TTL_S, *,
                 draw: Callable[[], int] = draw_seed) -> None:
        self.store = store
        self.clock = clock
        self.ttl_ns = round(ttl_s * 1e9)
        self.calls = ServiceCalls(clock, self._note_breaker)
        self.health: Health | None = None
        """Looks at silent instances; None: their heartbeat is enough. See `start_looking`."""
        self._write = write
        self._draw = draw
        self._live: dict[Key, Live] = {}
        self._of_service: dict[str, dict[Key, Live]] = {}
        self._of_instance: dict[str, dict[Key, Live]] = {}
        self._picks: dict[tuple[str, str, str, str], Key] = {}
        self._turns: dict[str, float] = {}
        self._breaker_news: list[tuple[Key, str]] = []
        self._stirred = True
        self._due_ns: int | None = None
        self._wake = trio.Event()

    def load(self) -> None:
        """Read what is registered."""
        for endpoint in self.store.peek(services.every):
            self._add(endpoint)
        for service, policy in self.store.peek(services.policies):
            self.calls.set_policy(service, policy)

    def start_looking(self) -> Health:
        """From now on endpoints are looked at, by the Health that is to be run."""
        self.health = Health(self.clock, self.ttl_ns, self._judge, self._stir)
        for live in self._live.values():
            self._watch(live)
        return self.health

    async def set_policy(self, service: str, policy: Policy | None,
                         if_version: int | None = None) -> None:
        """How a service is called from now on; None: as every other. if_version: as it was seen.

        Raises: VersionMismatch, TooMany, and as Engine.write.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._write(lambda tx: services.set_policy(tx, service, policy, if_version))
            finally:
                self.calls.set_policy(service, self.store.peek(services.policy, service))

    # ------------------------------------------------------------ registration

    async def register(self, instance_id: str, endpoints: Sequence[Endpoint], *,
                       replace: bool = False) -> None:
        """Register an instance's endpoints; replace: these and no others.

        What is registered already as it is given only shows that it is alive.
        Raises: TooMany, and as Engine.write.
        """
        mine = self._of_instance.get(instance_id, {})
        same = all(one.key in mine and mine[one.key].endpoint == one for one in endpoints)
        if not same or (replace and len(mine) != len({one.key for one in endpoints})):
            await self._change(instance_id, lambda tx: services.register(
                tx, instance_id, endpoints, replace=replace))
        now = self.clock.now()
        for one in endpoints:
            live = self._live.get(one.key)
            if live is not None:
                self._hear(live, now, healthy=True)

    async def move(self, key: Key, endpoint: Endpoint, *, create: bool) -> None:
        """Make the endpoint with this key what is given, its key included.

        Raises: NotFound unless create, and as Engine.write.
        """
        await self._change(key[1], lambda tx: services.move(tx, key, endpoint, create=create),
                           endpoint.instance_id)

    async def remove(self, key: Key) -> None:
        """Forget one endpoint. Raises: NotFound, and as Engine.write."""
        if not await self._change(key[1], lambda tx: services.remove(tx, [key])):
            raise NotFound("no such endpoint")

    async def remove_instance(self, instance_id: str) -> None:
        """Forget all endpoints of an instance. Raises: NotFound, and as Engine.write."""
        if not await self._change(instance_id, lambda tx: services.remove_instance(
                tx, instance_id)):
            raise NotFound("no such instance", field="instanceId")

    async def _change(self, instance_id: str, fn: Callable[[Tx], T], other: str = "") -> T:
        # Whoever asked may be gone before the commit; memory must follow it all the same.
        with trio.CancelScope(shield=True):
            try:
                value = await self._write(fn)
            finally:
                for changed in dict.fromkeys((instance_id, other or instance_id)):
                    self._read_back(changed)
        return value

    def read_back(self, instance_id: str) -> None:
        """Somebody else wrote an instance's endpoints: memory follows the rows."""
        self._read_back(instance_id)

    def _read_back(self, instance_id: str) -> None:
        found = {one.key: one for one in self.store.peek(services.of_instance, instance_id)}
        for key in list(self._of_instance.get(instance_id, ())):
            if key not in found:
                self._drop(key)
        for key, one in found.items():
            live = self._live.get(key)
            if live is None:
                self._add(one)
            elif live.endpoint != one:
                self._become(live, one)
        self._stir()        # there may be a nearer deadline now

    def _add(self, endpoint: Endpoint) -> None:
        live = Live(endpoint)
        self._believe(live, self.clock.now().mono_ns)
        key = endpoint.key
        self._live[key] = live
        self._of_service.setdefault(endpoint.service, {})[key] = live
        self._of_instance.setdefault(endpoint.instance_id, {})[key] = live
        self._watch(live)

    def _become(self, live: Live, endpoint: Endpoint) -> None:
        """What was found, or is being found now, is not said of what it has become."""
        live.vouched_by(NOBODY)
        live.endpoint = endpoint
        self._believe(live, self.clock.now().mono_ns)
        if self.health is None:
            return
        left = self.health.leave(endpoint.key)
        if live.watched:
            self._watch(live)
        elif not live.accepts:
            live.checked, live.why = True, ""   # nobody else would ever say so
        elif left or not live.checked:
            self.health.look(endpoint, well=True)

    def _drop(self, key: Key) -> None:
        if self.health is not None:
            self.health.leave(key)
        del self._live[key]
        for index, name in ((self._of_service, key[0]), (self._of_instance, key[1])):
            del index[name][key]
            if not index[name]:
                del index[name]
        self.calls.forget(key, last=key[0] not in self._of_service)
        if key[0] not in self._of_service:
            self._turns.pop(key[0], None)
            for pick in [pick for pick in self._picks if pick[0] == key[0]]:
                del self._picks[pick]

    # ------------------------------------------------------------ signs of life

    def beat(self, instance_id: str, verdicts: Sequence[Verdict] | None) -> None:
        """An instance is alive. verdicts: how it says that its endpoints are; None or empty: all
        of them are renewed, and looked at by ourselves in the background.

        Writes nothing. Raises: NotFound.
        """
        mine = self._of_instance.get(instance_id)
        if mine is None:
            raise NotFound("no such instance; register it first", field="instanceId")
        now = self.clock.now()
        for live in mine.values():
            if not verdicts:
                # Its own word was asked for and not given, so ours counts: `checked` stays.
                self._renew(live, now)
                live.reported = True
                self._ask_check(live, now.mono_ns)
            else:
                for verdict in verdicts:
                    if verdict.means(live.endpoint):
                        self._hear(live, now, healthy=verdict.healthy)
            self._note(live, now.mono_ns)

    def beat_known(self, instance_id: str, verdicts: Sequence[Verdict]) -> None:
        """The same of an instance that may have gone meanwhile."""
        if instance_id in self._of_instance:
            self.beat(instance_id, verdicts)

    def report(self, key: Key, *, healthy: bool) -> None:
        """Somebody says how an endpoint is; one that is not known is passed over."""
        live = self._live.get(key)
        if live is not None:
            self._hear(live, self.clock.now(), healthy=healthy)

    def _hear(self, live: Live, now: Instant, *, healthy: bool) -> None:
        """Its own word, or that of who speaks for it; where we look anyway, that counts too."""
        self._renew(live, now)
        live.reported = healthy
        if not live.watched:
            live.checked, live.why = True, ""
        self._note(live, now.mono_ns)

    def _renew(self, live: Live, now: Instant) -> None:
        self._believe(live, now.mono_ns)
        live.beat_ms = now.wall_ms

    def _believe(self, live: Live, now_ns: int) -> None:
        live.renewed_ns = now_ns + (HOLD_TTLS if live.watched else 1) * self.ttl_ns

    def _note(self, live: Live, now_ns: int) -> None:
        if live.healthy(now_ns) != live.told:
            self._stir()

    def _stir(self) -> None:
        self._stirred = True
        self._wake.set()

    def _ask_check(self, live: Live, now_ns: int) -> None:
        if (self.health is None or live.watched or now_ns < live.check_ns
                or not live.accepts):
            return
        live.check_ns = now_ns + self.ttl_ns // 3
        self.health.look(live.endpoint, well=live.checked)

    def _watch(self, live: Live) -> None:
        if self.health is not None and live.watched:
            self.health.watch(live.endpoint, well=True)     # there was no look at it as it is

    def _judge(self, endpoint: Endpoint, why: str, vouch: Vouch) -> None:
        """What a look at an endpoint came to."""
        live = self._live[endpoint.key]
        live.checked, live.why = not why, why
        live.vouched_by(vouch)
        self._note(live, self.clock.now().mono_ns)

    def _note_breaker(self, key: Key, state: str) -> None:
        self._breaker_news.append((key, f"breaker {state}"))
        self._stir()

    # ------------------------------------------------------------ in the background

    async def run(self) -> None:
        """Tell of health that changed. Sleeps until the next expiry or a change."""
        while True:
            self._wake = trio.Event()
            due_ns = await self._tell()
            if due_ns is None:
                await self._wake.wait()
                continue
            left_s = (due_ns - self.clock.now().mono_ns) / 1e9
            with trio.move_on_after(max(left_s, 0) + LATE_S) as waiting:
                await self._wake.wait()
            self._stirred = self._stirred or waiting.cancelled_caught

    async def _tell(self) -> int | None:
        """Events for what changed; answers when to look again, mono ns, or None."""
        if not self._stirred:
            return self._due_ns     # renewals only make it later, and that is seen when it comes
        self._stirred = False
        now_ns = self.clock.now().mono_ns
        news = [(live.endpoint.key, live.healthy(now_ns)) for live in self._live.values()
                if live.healthy(now_ns) != live.told]
        breakers, self._breaker_news = self._breaker_news, []
        if news or breakers:
            try:
                await self._write(lambda tx: services.tell(tx, [
                    *breakers, *((key, "healthy" if well else "unhealthy")
                                 for key, well in news)]))
            except PlumError:
                self._stirred = True        # the disk is down; again a little later
                self._breaker_news = [*breakers, *self._breaker_news][-BREAKER_NEWS_MAX:]
                return now_ns + round(AGAIN_S * 1e9)
            now_ns = self.clock.now().mono_ns
            for key, healthy in news:
                live = self._live.get(key)
                if live is not None:
                    live.told = healthy
                    self._note(live, now_ns)    # it may have changed meanwhile
        self._due_ns = min((live.expires_ns for live in self._live.values() if live.told),
                           default=None)
        return self._due_ns

    # ------------------------------------------------------------ questions

    def names(self) -> list[str]:
        """All services."""
        return sorted(self._of_service)

    def every(self, service: str = "", instance_id: str = "") -> list[Seen]:
        """Endpoints, by key; of a service or an instance if one is named."""
        index: Mapping[Key, Live] = self._live
        if service:
            index = self._of_service.get(service, {})
        elif instance_id:
            index = self._of_instance.get(instance_id, {})
        now_ns = self.clock.now().mono_ns
        return [Seen(live.endpoint, live.healthy(now_ns), live.seen_ms, live.why,
                     live.load.in_flight)
                for key, live in sorted(index.items(), key=lambda pair: pair[0])
                if not instance_id or key[1] == instance_id]

    def discover(self, service: str = "", version: str = "", protocol: str = "") -> list[Seen]:
        """Healthy endpoints, by key. A service, version or protocol "" is any."""
        return [seen for seen in self.every(service)
                if seen.healthy and version in ("", seen.endpoint.version)
                and protocol.lower() in ("", seen.endpoint.protocol.lower())]

    def pick(self, service: str, strategy: str, version: str = "", protocol: str = "",
             sticky: str = "") -> Seen | None:
        """One healthy endpoint by a strategy of balance.py; None when there is none.

        Round-robin and lazy remember what the same question was answered.
        """
        now_ns, lower = self.clock.now().mono_ns, protocol.lower()
        index = self._of_service.get(service, {}) if service else self._live
        found = {key: live for key, live in index.items()
                 if live.healthy(now_ns) and version in ("", live.endpoint.version)
                 and lower in ("", live.endpoint.protocol.lower())}
        keys = found if strategy == balance.ROUND_ROBIN else sorted(found)     # it sorts by itself
        question = (service, version, lower, strategy)
        chosen = balance.choose(
            [found[key].endpoint for key in keys], strategy,
            load={key: live.load for key, live in found.items()}
            if strategy == balance.LEAST_LOADED else {},
            last=self._picks.get(question), draw=self._draw(), sticky=sticky)
        if chosen is None:
            return None
        self._picks[question] = key = chosen.key
        live = found[key]
        self._take_turn(live)
        return Seen(live.endpoint, True, live.seen_ms, live.why, live.load.in_flight)

    def why(self, service: str) -> list[Cause]:
        """What keeps calls of a service from being made now."""
        found, until_ms = [], 0
        endpoints = self.every(service)
        if not endpoints:
            found.append(Cause("no_endpoint", "the service has no endpoint"))
        sick = sum(not seen.healthy for seen in endpoints)
        if sick:
            found.append(Cause("endpoint_unhealthy",
                               f"{sick} of {len(endpoints)} endpoints are unhealthy"))
        shut = [self.calls.seen(seen.endpoint.key) for seen in endpoints
                if seen.healthy and not self.calls.allows(seen.endpoint)]
        if shut:
            until_ms = min((one.until_ms for one in shut if one.until_ms), default=0)
            found.append(Cause("breaker_open", f"{len(shut)} of {len(endpoints)} endpoints are "
                               "not called, for calls of them failed", until_ms=until_ms))
        return found

    # ------------------------------------------------------------ for the executor of services

    def known(self, service: str) -> Sequence[Endpoint]:
        """All endpoints of a service."""
        return [live.endpoint for live in self._of_service.get(service, {}).values()]

    def is_healthy(self, endpoint: Endpoint) -> bool:
        """Whether it is believed to answer."""
        live = self._live.get(endpoint.key)
        return live is not None and live.healthy(self.clock.now().mono_ns)

    def preferred(self, service: str, fit: Iterable[Endpoint], tried: Iterable[Key],
                  strategy: str = balance.LEAST_LOADED, sticky: str = "") -> Endpoint | None:
        """Of those that fit: a healthy one not yet tried that its breaker lets be called, by the
        strategy, suspects last."""
        mine, skip, now_ns = self._of_service.get(service, {}), set(tried), self.clock.now().mono_ns
        able = [mine[one.key] for one in fit
                if one.key in mine and one.key not in skip and mine[one.key].healthy(now_ns)
                and self.calls.allows(one)]
        trusted = [live for live in able if live.suspect_ns <= now_ns] or able
        question = (service, "", "call", strategy)
        chosen = balance.choose(
            [live.endpoint for live in trusted], strategy,
            load={live.endpoint.key: live.load for live in trusted},
            last=self._picks.get(question), draw=self._draw(), sticky=sticky)
        if chosen is not None:
            self._picks[question] = chosen.key
        return chosen

    @contextmanager
    def calling(self, endpoint: Endpoint) -> Iterator[None]:
        """Counts a call in flight."""
        live = self._live.get(endpoint.key)
        load = Load() if live is None else live.load
        load.in_flight += 1
        if live is not None:
            self._take_turn(live)
        try:
            yield
        finally:
            load.in_flight -= 1

    def _take_turn(self, live: Live) -> None:
        service = live.endpoint.service
        self._turns[service] = balance.take_turn(
            live.load, live.endpoint.number("capacity"), self._turns.get(service, 0.0))

    def suspect(self, endpoint: Endpoint) -> None:
        """It did not answer: for a short while others are preferred."""
        live = self._live.get(endpoint.key)
        if live is not None:
            live.suspect_ns = self.clock.now().mono_ns + SUSPECT_NS
