"""Service tasks by a policy: retries within a budget, breakers, bounded tries, fallbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import trio

from plumd.breaker import BreakerPolicy, Fallback, Policy
from plumd.model import Ending
from tests.executors.farside import Call, answer, far_side, refusing_port, replying, silent
from tests.executors.test_service import Rig, code_of

GET = {"serviceMethod": "GET"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """An executor with an empty registry."""
    made = Rig(tmp_path)
    yield made
    made.service.client.close()
    made.store.close()


async def test_without_a_budget_the_first_endpoint_is_the_only_one(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(retry_percent=0))
    async with far_side(replying(200)) as side:
        await rig.add("a", await refusing_port())
        await rig.add("b", side.port)
        outcome = await rig.run()
    assert code_of(outcome) == "unreachable"
    assert side.calls == []


async def test_a_budget_that_is_used_up_stops_retries_until_calls_have_earned_more(
        rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(
        retry_percent=10, breaker=BreakerPolicy(failures=0), strategy="lazy"))
    dead = await rig.add("a", await refusing_port())
    good = 0
    async with far_side(replying(200)) as side:
        await rig.add("b", side.port)
        for _ in range(60):
            rig.registry._live[dead.key].suspect_ns = 0
            rig.registry._picks.clear()         # so that the dead one is always asked first
            good += (await rig.run()).ending is Ending.SUCCEEDED
    assert 10 <= good <= 10 + 7, "ten at hand, and a tenth of the calls"


async def test_only_what_may_be_made_twice_is_tried_again_after_an_answer(rig: Rig) -> None:
    async with far_side(replying(503)) as sick, far_side(replying(200, b"1")) as well:
        await rig.add("a", sick.port)
        await rig.add("b", well.port)
        assert (await rig.run()).ending is Ending.FAILED
        rig.registry._live[next(iter(rig.registry._live))].load.turn = 0
        assert (await rig.run(GET)).ending is Ending.SUCCEEDED
    assert (len(sick.calls), len(well.calls)) == (2, 1)


async def test_a_breaker_opens_lets_a_probe_through_and_closes(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(breaker=BreakerPolicy(failures=3, open_sec=0.3)))
    status = 500

    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(answer(status))
        return True

    async with far_side(behave) as side:
        one = await rig.add("a", side.port)
        for _ in range(3):
            assert code_of(await rig.run()) == "http_status"
        outcome = await rig.run()
        assert code_of(outcome) == "no_endpoint"
        assert outcome.error is not None
        assert "breaker is open" in outcome.error.message
        assert len(side.calls) == 3
        seen = rig.registry.calls.seen(one.key)
        assert seen.state == "open"
        assert seen.until_ms > 0
        assert [cause.code for cause in rig.registry.why("s")] == ["breaker_open"]
        await trio.sleep(0.4)
        assert code_of(await rig.run()) == "http_status", "the probe"
        assert code_of(await rig.run()) == "no_endpoint"
        status = 200
        await trio.sleep(0.7)
        assert (await rig.run()).ending is Ending.SUCCEEDED
        assert rig.registry.calls.seen(one.key).state == "closed"
        assert rig.registry.why("s") == []


async def test_one_open_breaker_leaves_the_calls_to_the_others(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(
        breaker=BreakerPolicy(failures=1, open_sec=600), retry_percent=0))
    async with far_side(replying(500)) as sick, far_side(replying(200)) as well:
        await rig.add("a", sick.port)
        await rig.add("b", well.port)
        endings = [(await rig.run()).ending for _ in range(20)]
    assert endings.count(Ending.FAILED) == 1
    assert len(well.calls) == 19


async def test_a_4xx_says_nothing_against_an_endpoint(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(breaker=BreakerPolicy(failures=1)))
    async with far_side(replying(404)) as side:
        one = await rig.add("a", side.port)
        for _ in range(5):
            await rig.run()
        assert rig.registry.calls.seen(one.key).state == "closed"
    assert len(side.calls) == 5


async def test_a_try_has_its_time(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(try_timeout_sec=0.2))
    async with far_side(silent) as stuck, far_side(replying(200)) as well:
        await rig.add("a", stuck.port)
        await rig.add("b", well.port)
        assert (await rig.run(GET)).ending is Ending.SUCCEEDED
        await rig.registry.remove_instance("b")
        outcome = await rig.run(GET)
        assert (outcome.ending, code_of(outcome)) == (Ending.FAILED, "try_timeout")
        outcome = await rig.run()
        assert (outcome.ending, code_of(outcome)) == (Ending.LOST, "try_timeout"), \
            "a POST may have been carried out"


@pytest.mark.parametrize("ports", [0, 1])
async def test_a_fixed_result_stands_in_for_a_service_that_cannot_be_had(
        rig: Rig, ports: int) -> None:
    await rig.registry.set_policy("s", Policy(fallback=Fallback(result=msgspec.Raw(b'{"x":1}'))))
    for number in range(ports):
        await rig.add(f"i{number}", await refusing_port())
    outcome = await rig.run()
    assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, b'{"x":1}')


async def test_a_fallback_covers_5xx_but_neither_4xx_nor_lost_calls(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(fallback=Fallback(result=msgspec.Raw(b"0"))))

    async def die(_stream: trio.SocketStream, _call: Call) -> bool:
        return False

    for behave, ending in ((replying(500), Ending.SUCCEEDED), (replying(400), Ending.FAILED),
                           (die, Ending.LOST)):
        async with far_side(behave) as side:
            await rig.add("a", side.port)
            assert (await rig.run()).ending is ending
            await rig.registry.remove_instance("a")


async def test_another_service_stands_in(rig: Rig) -> None:
    await rig.registry.set_policy("s", Policy(fallback=Fallback(service="t")))
    await rig.registry.set_policy("t", Policy(fallback=Fallback(service="s")))
    async with AsyncExitStack() as stack:
        side = await stack.enter_async_context(far_side(replying(200, b"2")))
        other = msgspec.structs.replace(await rig.add("a", side.port), service="t",
                                        instance_id="b")
        await rig.registry.remove_instance("a")
        await rig.registry.register("b", [other])
        assert (await rig.run()).result == b"2"
        await rig.registry.remove_instance("b")
        assert code_of(await rig.run()) == "no_endpoint", "and no further"


async def test_a_policy_survives_and_goes(rig: Rig) -> None:
    policy = Policy(retry_percent=0, fallback=Fallback(result=msgspec.Raw(b"null")))
    await rig.registry.set_policy("s", policy)
    other = Rig(rig.store.path.parent)
    other.registry.load()
    assert other.registry.calls.policy("s") == policy
    other.store.close()
    await rig.registry.set_policy("s", None)
    assert rig.registry.calls.policies() == {}
