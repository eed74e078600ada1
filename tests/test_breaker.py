"""Breakers and budgets by random steps: what may never be, whatever order calls end in."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from plumd.breaker import SAVED_MAX, Breaker, BreakerPolicy, Budget, State

S = 10**9
POLICY = BreakerPolicy(failures=3, open_sec=5, max_open_sec=20, probes=2)


class Calls(RuleBasedStateMachine):
    """Calls of one endpoint that begin and end in any order."""

    under_way = Bundle("under_way")

    @initialize()
    def begin(self) -> None:
        self.breaker = Breaker()
        self.now = 0
        self.row = 0                        # failures in a row while closed, as the model has it
        self.probe: int | None = None       # the epoch of the probe that is under way
        self.good = 0
        self.open_s = 5.0
        self.until = 0
        self.model = "closed"
        self.epochs: set[int] = set()

    @rule(seconds=st.integers(0, 30))
    def later(self, seconds: int) -> None:
        self.now += seconds * S

    @rule(target=under_way)
    def call(self) -> object:
        """A call begins if it may."""
        expected = (self.model == "closed" or (self.model == "open" and self.now >= self.until)
                    or (self.model == "half-open" and self.probe is None))
        assert self.breaker.allows(POLICY, self.now) == expected
        if not expected:
            return multiple()
        epoch = self.breaker.begin(POLICY, self.now)
        if self.model == "open":
            self.model, self.good = "half-open", 0
        if self.model == "half-open":
            self.probe = epoch
        return epoch

    @rule(epoch=consumes(under_way), well=st.sampled_from((True, True, False, False, None)))
    def end(self, epoch: int, well: bool | None) -> None:
        """A call ends; one of an earlier state says nothing."""
        before = self.breaker.state
        current = epoch == self.breaker._epoch
        changed = self.breaker.end(POLICY, epoch, self.now, well=well)
        assert changed == (self.breaker.state is not before)
        if not current:
            assert not changed
        elif self.model == "closed" and well is not None:
            self.row = 0 if well else self.row + 1
            if self.row == 3:
                self.opened()
        elif self.model == "half-open":
            self.probe = None
            if well:
                self.good += 1
                if self.good == 2:
                    self.model, self.row, self.open_s = "closed", 0, 5.0
            elif well is False:
                self.opened()

    def opened(self) -> None:
        self.model, self.row, self.probe = "open", 0, None
        self.until = self.now + round(self.open_s * S)
        self.open_s = min(20.0, self.open_s * 2)

    @rule()
    def reset(self) -> None:
        assert self.breaker.reset() == (self.model != "closed")
        self.model, self.row, self.open_s, self.probe = "closed", 0, 5.0, None

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        if hasattr(self, "breaker"):
            assert ("closed", "open", "half-open")[self.breaker.state] == self.model
            if self.model == "open":
                assert self.breaker.until_ns == self.until


TestCalls = Calls.TestCase


def test_without_failures_it_never_opens() -> None:
    breaker, never = Breaker(), BreakerPolicy(failures=0)
    for _ in range(100):
        assert breaker.allows(never, 0)
        breaker.end(never, breaker.begin(never, 0), 0, well=False)
    assert breaker.state is State.CLOSED


@given(st.lists(st.booleans(), max_size=300), st.sampled_from((0.0, 1.0, 20.0, 100.0)))
def test_retries_stay_within_their_share(steps: list[bool], percent: float) -> None:
    budget, calls, retries = Budget(), 0, 0
    for is_call in steps:
        if is_call:
            budget.called(percent)
            calls += 1
        elif budget.take(percent):
            retries += 1
        assert retries <= SAVED_MAX + float(Fraction(percent) / 100 * calls) + 1e-6
    if percent == 0:
        assert retries == 0


@pytest.mark.parametrize("percent", [5.0, 20.0])
def test_a_dead_service_is_not_called_twice_as_often(percent: float) -> None:
    budget, retries = Budget(), 0
    for _ in range(1_000):
        budget.called(percent)
        retries += budget.take(percent)
    assert retries == pytest.approx(10 * percent + SAVED_MAX, abs=12)
