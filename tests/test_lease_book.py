"""The book of leases against a model of plain dicts and lists, by random steps."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plumd.lease_book import SWEPT, LeaseBook

KEYS = st.sampled_from(("a", "b", "c"))
TIMES = st.integers(0, 40)


class Books(RuleBasedStateMachine):
    """(owner, token, ttl, until, ending) by key, and lists of tickets."""

    @initialize()
    def begin(self) -> None:
        self.book: LeaseBook[str] = LeaseBook()
        self.now = 0
        self.token = 0
        self.held: dict[str, list[int]] = {}        # key -> [token, ttl, until, ending]
        self.lines: dict[str, list[int]] = {key: [] for key in "abc"}

    @rule(step=TIMES)
    def later(self, step: int) -> None:
        self.now += step

    @rule(key=KEYS, ttl=st.integers(1, 50))
    def take(self, key: str, ttl: int) -> None:
        """Somebody new, if nobody has it."""
        if key not in self.held:
            self.token += 1
            self.book.put(key, "x", self.token, ttl, self.now)
            self.held[key] = [self.token, ttl, self.now + ttl, 0]

    @rule(key=KEYS, ttl=st.integers(1, 50))
    def take_again(self, key: str, ttl: int) -> None:
        """Who has it asks again, perhaps for another time."""
        if key in self.held and not self.held[key][3]:
            token = self.held[key][0]
            self.book.put(key, "x", token, ttl, self.now)
            self.held[key] = [token, ttl, self.now + ttl, 0]

    @rule(key=KEYS, stale=st.integers(0, 2))
    def renew(self, key: str, stale: int) -> None:
        known = self.held.get(key)
        token = (known[0] if known else self.token) - stale
        good = known is not None and not stale and not known[3] and self.now < known[2]
        assert self.book.renew(key, token, self.now) == good
        if good and known is not None:
            known[2] = self.now + known[1]

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.book.drop(key)
        self.held.pop(key, None)

    @rule(count=st.integers(1, 3))
    def look(self, count: int) -> None:
        due = {key: known for key, known in self.held.items()
               if known[2] <= self.now and not known[3]}
        found = self.book.due(self.now, count)
        assert len(found) == min(count, len(due)), (found, due)
        for key, token in found:
            assert due[key][0] == token
            self.held[key][3] = 1

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        """The end of a lease could not be written."""
        if key in self.held and self.held[key][3]:
            self.book.still(key, self.held[key][0])
            self.held[key][3] = 0

    @rule(key=KEYS)
    def join(self, key: str) -> None:
        self.lines[key].append(self.book.join(key))

    @rule(key=KEYS, place=st.integers(0, 5))
    def leave(self, key: str, place: int) -> None:
        line = self.lines[key]
        if line:
            self.book.leave(key, line.pop(place % len(line)))

    @invariant()
    def nothing_is_overslept(self) -> None:
        if not hasattr(self, "book"):
            return
        waiting = [known[2] for known in self.held.values() if not known[3]]
        due = self.book.next_due_ns()
        assert not waiting or (due is not None and due <= min(waiting))

    @invariant()
    def the_same_is_seen(self) -> None:
        if not hasattr(self, "book"):
            return
        for key in "abc":
            held, known = self.book.get(key), self.held.get(key)
            assert (held is None) == (known is None)
            if held is not None and known is not None:
                assert [held.token, held.ttl_ns, held.until_ns, int(held.ending)] == known
            assert self.book.waiting(key) == len(self.lines[key])
            assert self.book.first(key) == (self.lines[key][0] if self.lines[key] else None)


TestBooks = Books.TestCase


def test_renewing_for_ever_does_not_fill_the_heap() -> None:
    book: LeaseBook[str] = LeaseBook()
    book.put("a", "x", 1, 10, 0)
    for now in range(1, 5_000):
        assert book.renew("a", 1, now)
        book.put("a", "x", 1, 10, now)
        assert book.due(now, 10) == []
        assert len(book._heap) == 1


def test_what_was_given_back_does_not_pile_up() -> None:
    """A short lease with a long time leaves a place behind, but not for all that time."""
    book: LeaseBook[str] = LeaseBook()
    kept = 2 * SWEPT + 5
    for number in range(kept):
        book.put(f"kept {number}", "x", number, 1_000 + number, 0)
    for number in range(10 * SWEPT):
        book.put("often", "x", kept + number, 1 << 40, number)
        book.drop("often")
    assert len(book._heap) <= 2 * kept + SWEPT
    assert len(book.due(1 << 41, 10 * kept)) == kept == len(book)
