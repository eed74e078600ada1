"""The registry and who looks for it, by random steps: whatever crosses, truth is told in the end.

Endpoints come, change, move and go, beat or are silent, fall ill and recover, while lookouts end in
the middle of a look, and commits take their time or fail.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TypeAlias, get_args

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from plumd.balance import Endpoint
from plumd.errors import NotFound, StorageDown
from plumd.executors.targets import Policy
from plumd.health import HOLD_TTLS, Health
from plumd.services import Verdict
from plumd.store import services
from tests.test_services import TTL_S, Rig, rigged

NAMES: Final = ("a", "b")
KINDS: Final = ("", "tcp", "http")

Word: TypeAlias = Literal["register", "replace", "move", "remove", "leave", "beat", "well", "sick",
                          "falls ill", "hangs", "recovers", "kill", "down", "up", "pass"]
STEPS: Final = st.lists(st.tuples(
    st.sampled_from(get_args(Word)), st.sampled_from(NAMES), st.sampled_from(KINDS),
    st.sampled_from((80, 81)), st.sampled_from((0.0, 0.2, 2.0, 5.0, 11.0))),
    min_size=1, max_size=40)


class World:
    """How things truly are, beside the registry."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ill: dict[str, str] = dict.fromkeys(NAMES, "")
        self.looking = trio.CancelScope()
        self.looks = 0

    async def check(self, one: Endpoint) -> str:
        """A look at an instance that is as it is."""
        self.looks += 1
        await trio.sleep(0.3)
        why = self.ill[one.instance_id]
        if why == "hangs":
            await trio.sleep_forever()
        return why and f"{why}, for the {self.looks}th time"

    async def look(self, health: Health) -> None:
        """One lookout after another, as they are kept."""
        while True:
            ours, theirs = trio.testing.memory_stream_pair()
            with trio.CancelScope() as self.looking:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.rig.look_out, self.check, theirs)
                    await health.talk(ours, Policy())
                    nursery.cancel_scope.cancel()
            await trio.sleep(1)

    async def step(self, word: Word, name: str, kind: str, port: int) -> None:
        """Something happens."""
        rig, registry = self.rig, self.rig.registry
        labels = {"healthCheck": kind} if kind else {}
        one = Endpoint("s", name, "10.0.0.1", port, "http", labels=labels)
        match word:
            case "register" | "replace":
                await registry.register(name, [one], replace=word == "replace")
            case "move":
                found = registry.every("s", name)
                if found:
                    await registry.move(found[0].endpoint.key, one, create=False)
            case "remove":
                await registry.remove(one.key)
            case "leave":
                await registry.remove_instance(name)
            case "beat":
                registry.beat(name, None)
            case "well" | "sick":
                registry.beat(name, [Verdict("s", "", 0, "", healthy=word == "well")])
            case "falls ill" | "hangs":
                self.ill[name] = word
            case "recovers":
                self.ill[name] = ""
            case "kill":
                self.looking.cancel()
            case "down":
                rig.down = True
            case "up":
                rig.down = False
            case "pass":
                pass

    async def attempt(self, word: Word, name: str, kind: str, port: int) -> None:
        """The same, whatever the answer."""
        with suppress(NotFound, StorageDown):
            await self.step(word, name, kind, port)


@given(STEPS)
@settings(max_examples=60)
def test_in_the_end_everything_is_as_it_is(steps: list[tuple[Word, str, str, int, float]]) -> None:
    async def live() -> None:
        with TemporaryDirectory() as folder:
            async with rigged(Path(folder), clock) as rig:
                rig.slow_s = 1.0
                world = World(rig)
                rig.nursery.start_soon(world.look, rig.registry.start_looking())
                for word, name, kind, port, then_s in steps:
                    rig.nursery.start_soon(world.attempt, word, name, kind, port)
                    await trio.sleep(then_s)
                await world.step("up", "", "", 0)
                await settle(world)
                check(world)

    clock = MockClock(autojump_threshold=0)
    trio.run(live, clock=clock)


async def settle(world: World) -> None:
    """Everybody who is there says that it is well, those who are not looked at again and again."""
    registry = world.rig.registry
    for name in {one.endpoint.instance_id for one in registry.every()}:
        registry.beat(name, [Verdict("s", "", 0, "", healthy=True)])
    for _ in range(3 * HOLD_TTLS):
        await trio.sleep(TTL_S / 2)
        for one in registry.every():
            if not one.endpoint.labels:
                registry.report(one.endpoint.key, healthy=True)


def check(world: World) -> None:
    """Memory is as the rows, health as the truth, and the last event of each says so."""
    registry, health = world.rig.registry, world.rig.registry.health
    assert health is not None
    seen = registry.every()
    assert [one.endpoint for one in seen] == world.rig.store.peek(services.every)
    watched = 0
    for one in seen:
        looked_at = bool(one.endpoint.labels)
        watched += looked_at
        ill = looked_at and bool(world.ill[one.endpoint.instance_id])
        assert one.healthy is not ill
        assert bool(one.why) is ill
        silent_ms = round(trio.current_time() * 1e3) - one.seen_ms
        assert silent_ms >= 0
        assert ill or silent_ms < TTL_S * 1e3
        assert registry._live[one.endpoint.key].told is one.healthy
    assert health.asked == watched == len(health._numbers)
