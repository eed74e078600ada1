"""Which endpoint is chosen."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.balance import (
    LAZY,
    LEAST_LOADED,
    RANDOM,
    ROUND_ROBIN,
    STICKY,
    STRATEGIES,
    WEIGHTED,
    Endpoint,
    Key,
    Load,
    choose,
    strategy_of,
    take_turn,
)


def endpoint(number: int) -> Endpoint:
    """One of several endpoints of a service."""
    return Endpoint("s", f"i{number}", "10.0.0.1", 1000 + number, "http")


THREE = [endpoint(2), endpoint(0), endpoint(1)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_can_be_chosen_among_none(strategy: str) -> None:
    assert choose([], strategy, load={}, last=endpoint(1).key, draw=7) is None


@given(st.sampled_from(STRATEGIES), st.integers(1, 6), st.integers(0, 1 << 64),
       st.none() | st.integers(0, 7))
def test_one_of_them_is_chosen_whatever_is_drawn(
        strategy: str, count: int, draw: int, last: int | None) -> None:
    some = [endpoint(number) for number in range(count)]
    before = None if last is None else endpoint(last).key
    assert choose(some, strategy, load={}, last=before, draw=draw) in some


def test_random_takes_what_was_drawn() -> None:
    chosen = Counter(choose(THREE, RANDOM, load={}, draw=draw) == THREE[1] for draw in range(30))
    assert chosen[True] == 10


def test_round_robin_goes_around_by_key_and_past_those_that_left() -> None:
    last: Key | None = None
    order = []
    for _ in range(5):
        found = choose(THREE, ROUND_ROBIN, load={}, last=last)
        assert found is not None
        last = found.key
        order.append(found.instance_id)
    assert order == ["i0", "i1", "i2", "i0", "i1"]
    assert choose([THREE[0], THREE[1]], ROUND_ROBIN, load={}, last=last) == THREE[0]
    assert choose([THREE[1]], ROUND_ROBIN, load={}, last=last) == THREE[1]


def test_least_loaded_looks_at_calls_in_flight_then_at_turns() -> None:
    load = {endpoint(0).key: Load(1, 1), endpoint(1).key: Load(0, 50), endpoint(2).key: Load(0, 9)}
    assert choose(THREE, LEAST_LOADED, load=load) == endpoint(2)
    load[endpoint(2).key] = Load(2, 9)
    assert choose(THREE, LEAST_LOADED, load=load) == endpoint(1)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(0, 500))
def test_turns_are_shared_by_capacity_and_nobody_catches_up(rooms: list[int],
                                                            before: int) -> None:
    ends = [labelled(str(number), capacity=str(room)) for number, room in enumerate(rooms)]
    load = {one.key: Load() for one in ends}
    now, counts = 0.0, Counter[str]()

    def ask(some: list[Endpoint], times: int) -> None:
        nonlocal now
        for _ in range(times):
            chosen = choose(some, LEAST_LOADED, load=load)
            assert chosen is not None
            now = take_turn(load[chosen.key], chosen.number("capacity"), now)
            counts[chosen.instance_id] += 1

    ask(ends, before)
    late = labelled("late", capacity="2")
    load[late.key] = Load()
    counts.clear()
    rounds = 20
    ask([*ends, late], rounds * (sum(rooms) + 2))
    for one in (*ends, late):
        share = rounds * one.number("capacity")
        assert abs(counts[one.instance_id] - share) <= one.number("capacity") + 1, counts


def test_an_endpoint_without_a_record_has_no_load_and_ties_are_drawn() -> None:
    load = {endpoint(0).key: Load(0, 1)}
    chosen = [choose(THREE, LEAST_LOADED, load=load, draw=draw) for draw in range(4)]
    assert chosen == [endpoint(2), endpoint(1)] * 2


def test_lazy_stays_while_its_pick_is_there() -> None:
    for draw in range(5):
        assert choose(THREE, LAZY, load={}, last=endpoint(1).key, draw=draw) == endpoint(1)
    assert choose(THREE[:2], LAZY, load={}, last=endpoint(1).key, draw=1) == THREE[1]


@pytest.mark.parametrize(("word", "strategy"), [
    ("random", RANDOM), ("Round-Robin", ROUND_ROBIN), ("round_robin", ROUND_ROBIN),
    ("roundRobin", ROUND_ROBIN), ("leastLoaded", LEAST_LOADED), ("LAZY", LAZY), ("sticky", STICKY),
    ("fastest", None), ("", None),
])
def test_strategies_however_they_are_spelled(word: str, strategy: str | None) -> None:
    assert strategy_of(word) == strategy


def test_an_ipv6_address_is_put_in_brackets() -> None:
    assert Endpoint("s", "i", "::1", 80, "http").address == "[::1]:80"
    assert endpoint(1).address == "10.0.0.1:1001"


def labelled(instance: str, **labels: str) -> Endpoint:
    return Endpoint("s", instance, "10.0.0.1", 80, "http", "", "", labels)


def test_weights_share_the_calls() -> None:
    ends = [labelled("a", weight="1"), labelled("b", weight="3"), labelled("c", weight="rubbish")]
    counts = dict.fromkeys("abc", 0)
    for draw in range(5_000):
        chosen = choose(ends, WEIGHTED, load={}, draw=draw)
        assert chosen is not None
        counts[chosen.instance_id] += 1
    assert counts == {"a": 1_000, "b": 3_000, "c": 1_000}


def test_a_weight_of_0_is_for_when_there_is_no_other() -> None:
    out, also_out = labelled("a", weight="0"), labelled("b", weight="0")
    rest = labelled("c", weight="2")
    assert all(choose([out, rest, also_out], WEIGHTED, load={}, draw=draw) == rest
               for draw in range(9))
    found = [choose([out, also_out], WEIGHTED, load={}, draw=draw) for draw in range(2)]
    assert found == [out, also_out]


def test_capacity_counts_in_the_load() -> None:
    small, large = labelled("small"), labelled("large", capacity="10")
    load = {small.key: Load(1, 1), large.key: Load(9, 9)}
    assert choose([small, large], LEAST_LOADED, load=load) == large
    load[large.key] = Load(11, 11)
    assert choose([small, large], LEAST_LOADED, load=load) == small


@given(st.sets(st.integers(0, 50), min_size=2, max_size=12), st.text(min_size=1), st.data())
def test_sticky_keys_move_only_when_theirs_goes(names: set[int], key: str,
                                                data: st.DataObject) -> None:
    ends = [labelled(str(name)) for name in sorted(names)]
    chosen = choose(ends, STICKY, load={}, sticky=key)
    assert chosen == choose(list(reversed(ends)), STICKY, load={}, sticky=key, draw=99)
    gone = data.draw(st.sampled_from(ends))
    left = [one for one in ends if one is not gone]
    after = choose(left, STICKY, load={}, sticky=key)
    assert after == chosen or chosen == gone


def test_sticky_without_a_key_is_lazy() -> None:
    ends = [labelled("a"), labelled("b")]
    assert choose(ends, STICKY, load={}, last=ends[1].key, draw=0) == ends[1]
