"""How much work a worker should have in hand beyond what it runs. Pure.

Between the end of one attempt and the next there lies a trip to the daemon and a commit, and slots
that come free together would wait for it together, again and again. So a worker asks for as many
as end within AHEAD_S: none where that is long, for there others should have what waits.
"""

from __future__ import annotations

from typing import Final, final

AHEAD_S: Final = 0.005
TIMES_CAPACITY_MAX: Final = 16
SAMPLE: Final = 32
"""The pace is taken from so many attempts at a time."""


@final
class Pace:
    """How long attempts take, and so how many are wanted beyond the capacity.

    capacity: how many run side by side.  adapts: False = none, whatever they take.
    """

    def __init__(self, capacity: int, *, adapts: bool) -> None:
        self.wanted = 0
        self.asked = False
        """Whether it ever wanted any."""
        self.adapts = adapts
        self._capacity = capacity
        self._spent_s = 0.0
        self._count = 0

    def note(self, spent_s: float, count: int, width: int) -> None:
        """So many attempts took so long together; width: how many ran side by side."""
        self._spent_s += spent_s / width
        self._count += count
        if self._count >= SAMPLE:
            if self.adapts:
                self._judge(self._spent_s / self._count)
            self._spent_s, self._count = 0.0, 0

    def _judge(self, each_s: float) -> None:
        most = TIMES_CAPACITY_MAX * self._capacity
        fit = most if each_s * most <= AHEAD_S else int(AHEAD_S / each_s)
        if not fit or fit >= 2 * self.wanted or 2 * fit <= self.wanted or fit == most:
            self.wanted = fit       # smaller changes are not worth a word
            self.asked = self.asked or fit > 0

    def slow(self) -> None:
        """Handlers take long now: nothing ahead until they are quick again."""
        self.wanted, self._spent_s, self._count = 0, 0.0, 0
