"""The outbox: results that the daemon has not yet acknowledged. Nothing here waits or sends."""

from __future__ import annotations

from collections import deque
from typing import Final, final

from plumd.sdk.protocol import Result, fitting

REMEMBERED: Final = 10_000
"""So many attempts that are over are told from new ones: none is started a second time."""


@final
class Outbox:
    """What the worker owes the daemon, in the order in which the work ended.

    A result stays until a batch that carried it is acknowledged, or until the daemon refused it.
    """

    def __init__(self) -> None:
        self.owed: dict[str, int] = {}
        """Ids of all results in here, and behind which line each one goes: a mark of LogLines."""
        self._unsent: list[Result] = []
        self._sent: deque[tuple[int, list[Result]]] = deque()
        self._seq = 0
        self._over: set[str] = set()            # the latest; when full it becomes the older half
        self._over_before: set[str] = set()

    def __len__(self) -> int:
        return len(self.owed)

    @property
    def unsent(self) -> bool:
        """Whether a result waits to be sent."""
        return bool(self._unsent)

    def knows(self, attempt_id: str) -> bool:
        """Whether this attempt has ended here, so that it must not be started again."""
        return (attempt_id in self.owed or attempt_id in self._over
                or attempt_id in self._over_before)

    def add(self, result: Result, behind: int = 0) -> None:
        """One more result. behind: the mark of its attempt's last line."""
        self.owed[result.id] = behind
        self._unsent.append(result)

    def take(self, items_max: int, bytes_max: int,
             said: int | None = None) -> tuple[int, list[Result]]:
        """(number, results) of the next batch, which is now in flight; (0, []) when none waits.

        said: those behind later lines wait; None: all lines are said.
        """
        ready, held = self._unsent, list[Result]()
        if said is not None:
            ready = [result for result in self._unsent if self.owed[result.id] <= said]
            held = [result for result in self._unsent if self.owed[result.id] > said]
        if not ready:
            return 0, []
        count = min(fitting(ready, bytes_max), items_max)
        batch, self._unsent = ready[:count], ready[count:] + held
        self._seq += 1
        self._sent.append((self._seq, batch))
        return self._seq, batch

    def acknowledged(self, seq: int) -> None:
        """All batches up to this number are durable: forget them."""
        while self._sent and self._sent[0][0] <= seq:
            for result in self._sent.popleft()[1]:
                self.owed.pop(result.id, None)
                self._over.add(result.id)
        self._age()

    def forget(self, attempt_ids: set[str]) -> None:
        """The daemon does not want these."""
        for attempt_id in attempt_ids:
            self.owed.pop(attempt_id, None)
            self._over.add(attempt_id)
        self._unsent = [result for result in self._unsent if result.id in self.owed]
        self._age()

    def rewind(self) -> None:
        """The line is gone: what was in flight must be sent again, in the old order."""
        flown = [result for _, batch in self._sent for result in batch if result.id in self.owed]
        self._sent.clear()
        self._unsent = flown + self._unsent

    def _age(self) -> None:
        if len(self._over) > REMEMBERED:
            self._over_before, self._over = self._over, set()
