"""Pure: when a service's endpoints are called at all, and how often a call is tried again.

                 failures in a row                 its time is over
    CLOSED ------------------------> OPEN -----------------------------> HALF_OPEN
       ^                              ^                                   |     |
       |                              +------- the probe failed ----------+     |
       +-------------------------- enough probes went well ---------------------+

An open endpoint is not called. When its time is over one call at a time is let through, as a probe;
each time that a probe fails the next time is twice as long. What comes back of a call that began
in an earlier state says nothing of this one. Times are monotonic ns.

Source: Nygard, "Release It!", 2nd ed., chapter 5 (circuit breaker); Google, "Site Reliability
Engineering", chapter 21 (retry budgets).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

SAVED_MAX: Final = 10.0
DOUBLINGS_MAX: Final = 10
Strategy = Literal["least-loaded", "round-robin", "random", "weighted", "lazy", "sticky"]


class BreakerPolicy(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """failures: in a row, until an endpoint is not called any more; 0 = it always is.

    openSec: for so long, and twice as long after each probe that fails, at most maxOpenSec.
    probes: so many calls must go well in a row before it is called as before.
    """

    failures: Annotated[int, Meta(ge=0, le=1_000)] = 5
    open_sec: Annotated[float, Meta(ge=0.1, le=3_600)] = 5.0
    max_open_sec: Annotated[float, Meta(ge=0.1, le=86_400)] = 60.0
    probes: Annotated[int, Meta(ge=1, le=100)] = 1


class Fallback(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What comes in the place of a service that cannot be had: another one, or a fixed result."""

    service: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    result: Raw | UnsetType = UNSET


class Policy(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How service tasks call a service.

    retryPercent: so many of a hundred calls may be tried again at another endpoint, 0 = none.
    tryTimeoutSec: so long one endpoint may take, 0 = as long as the attempt.
    """

    strategy: Strategy = "least-loaded"
    retry_percent: Annotated[float, Meta(ge=0, le=100)] = 20.0
    try_timeout_sec: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    breaker: BreakerPolicy = BreakerPolicy()
    fallback: Fallback | None = None


DEFAULT: Final = Policy()


class State(IntEnum):
    """See the picture above."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


STATES: Final = ("closed", "open", "half-open")


class Breaker:
    """One endpoint's. A call is `begin`, and `end` with what `begin` said."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.failures = 0
        """In a row, while it is closed."""
        self.until_ns = 0
        """When it is open: until when."""
        self.opened = 0
        """How often in a row it was opened."""
        self._epoch = 0             # counts changes of state
        self._probing = False
        self._good = 0

    def allows(self, policy: BreakerPolicy, now_ns: int) -> bool:
        """Whether a call may begin now."""
        if not policy.failures or self.state is State.CLOSED:
            return True
        if self.state is State.OPEN:
            return now_ns >= self.until_ns
        return not self._probing

    def begin(self, policy: BreakerPolicy, now_ns: int) -> int:
        """A call begins, which `allows` had let through; what to give to `end`."""
        if policy.failures and self.state is State.OPEN and now_ns >= self.until_ns:
            self._become(State.HALF_OPEN)
            self._good = 0
        if self.state is State.HALF_OPEN:
            self._probing = True
        return self._epoch

    def end(self, policy: BreakerPolicy, epoch: int, now_ns: int, *, well: bool | None) -> bool:
        """A call is over; whether the state changed. well: None = that says nothing."""
        if epoch != self._epoch:
            return False
        if self.state is State.HALF_OPEN:
            self._probing = False
            if well is None:
                return False
            if not well:
                return self._open(policy, now_ns)
            self._good += 1
            if self._good < policy.probes:
                return False
            self.opened = self.failures = 0
            return self._become(State.CLOSED)
        if self.state is State.CLOSED and well is not None:
            self.failures = 0 if well else self.failures + 1
            if policy.failures and self.failures >= policy.failures:
                return self._open(policy, now_ns)
        return False

    def reset(self) -> bool:
        """Somebody knows that it is well, or it is another endpoint now; whether it was not closed.
        """
        changed = self.state is not State.CLOSED
        self.failures = self.opened = 0
        self._become(State.CLOSED)
        return changed

    def _open(self, policy: BreakerPolicy, now_ns: int) -> bool:
        times = 1 << min(self.opened, DOUBLINGS_MAX)
        open_s = min(policy.open_sec * times, max(policy.open_sec, policy.max_open_sec))
        self.until_ns = now_ns + round(open_s * 1e9)
        self.opened += 1
        self.failures = 0
        return self._become(State.OPEN)

    def _become(self, state: State) -> bool:
        self._epoch += 1
        self._probing = False
        self.state = state
        return True


class Budget:
    """The retries that a service's calls have earned: percent of the calls, and a few at hand."""

    def __init__(self) -> None:
        self.left = SAVED_MAX

    def called(self, percent: float) -> None:
        """A call was made that is no retry."""
        self.left = min(SAVED_MAX, self.left + percent / 100)

    def take(self, percent: float) -> bool:
        """Whether a retry may be made now; then it is spent."""
        if percent <= 0 or self.left < 1:
            return False
        self.left -= 1
        return True
