"""How the calls of services go: their policies, the breakers of endpoints, the budgets of retries.

Policies are the store's; what was seen of calls is memory's, and begins anew with the daemon.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from plumd.balance import Endpoint, Key
from plumd.breaker import DEFAULT, SAVED_MAX, STATES, Breaker, Budget, Policy, State
from plumd.clock import Clock


class Seen(msgspec.Struct, frozen=True):
    """An endpoint's breaker. state: one of STATES; until_ms: while it is open, Unix ms, else 0."""

    state: str = STATES[0]
    until_ms: int = 0
    failures: int = 0


CLOSED = Seen()


class ServiceCalls:
    """What is known of calls. told: given (endpoint, state) whenever a breaker changes."""

    def __init__(self, clock: Clock, told: Callable[[Key, str], None]) -> None:
        self.clock = clock
        self._told = told
        self._policies: dict[str, Policy] = {}
        self._budgets: dict[str, Budget] = {}
        self._breakers: dict[Key, Breaker] = {}

    # ------------------------------------------------------------ policies

    def policy(self, service: str) -> Policy:
        """How a service is called."""
        return self._policies.get(service, DEFAULT)

    def set_policy(self, service: str, policy: Policy | None) -> None:
        """It was written; None: as every other."""
        if policy is None:
            self._policies.pop(service, None)
        else:
            self._policies[service] = policy

    def policies(self) -> dict[str, Policy]:
        """Those that somebody wrote, by service."""
        return dict(sorted(self._policies.items()))

    # ------------------------------------------------------------ budgets

    def first_call(self, service: str) -> None:
        """A call begins that is no retry."""
        budget = self._budgets.get(service)     # one that nobody took of is full
        if budget is not None:
            budget.called(self.policy(service).retry_percent)

    def may_retry(self, service: str) -> bool:
        """Whether a call may be tried again at another endpoint; then it is spent."""
        budget = self._budgets.setdefault(service, Budget())
        return budget.take(self.policy(service).retry_percent)

    def retries_left(self, service: str) -> float:
        """How many calls could be tried again now."""
        if not self.policy(service).retry_percent:
            return 0.0
        budget = self._budgets.get(service)
        return SAVED_MAX if budget is None else budget.left

    # ------------------------------------------------------------ of each endpoint

    def allows(self, endpoint: Endpoint) -> bool:
        """Whether it may be called now."""
        breaker = self._breakers.get(endpoint.key)
        return breaker is None or breaker.allows(
            self.policy(endpoint.service).breaker, self.clock.now().mono_ns)

    def begin(self, endpoint: Endpoint) -> int:
        """A call of it begins; what to give to `end`."""
        breaker = self._breakers.setdefault(endpoint.key, Breaker())
        before = breaker.state
        epoch = breaker.begin(self.policy(endpoint.service).breaker, self.clock.now().mono_ns)
        if breaker.state is not before:
            self._told(endpoint.key, STATES[breaker.state])
        return epoch

    def end(self, endpoint: Endpoint, epoch: int, *, well: bool | None) -> None:
        """A call of it is over. well: None = nothing is known of it."""
        breaker = self._breakers.get(endpoint.key)
        if breaker is not None and breaker.end(
                self.policy(endpoint.service).breaker, epoch, self.clock.now().mono_ns,
                well=well):
            self._told(endpoint.key, STATES[breaker.state])

    def reset(self, key: Key) -> None:
        """Call it again as if nothing had been."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.reset():
            self._told(key, STATES[State.CLOSED])

    def forget(self, key: Key, *, last: bool) -> None:
        """The endpoint is gone; last: its service has no other one."""
        self._breakers.pop(key, None)
        if last:
            self._budgets.pop(key[0], None)

    def seen(self, key: Key) -> Seen:
        """An endpoint's breaker as it is."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return CLOSED
        now = self.clock.now()
        until_ms = 0
        if breaker.state is State.OPEN:
            until_ms = now.wall_ms + max(0, breaker.until_ns - now.mono_ns) // 1_000_000
        return Seen(STATES[breaker.state], until_ms, breaker.failures)
