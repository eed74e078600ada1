"""Pure: which of a service's endpoints is chosen. Time and randomness come in as arguments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

Key: TypeAlias = tuple[str, str, str, int, str]
"""(service, instance, ip, port, protocol): what makes an endpoint this one."""

RANDOM: Final = "random"
ROUND_ROBIN: Final = "round-robin"
LEAST_LOADED: Final = "least-loaded"
LAZY: Final = "lazy"
WEIGHTED: Final = "weighted"
STICKY: Final = "sticky"
STRATEGIES: Final = (RANDOM, ROUND_ROBIN, LEAST_LOADED, LAZY, WEIGHTED, STICKY)
ALIASES: Final = {"roundrobin": ROUND_ROBIN, "leastloaded": LEAST_LOADED}
WEIGHT_MAX: Final = 10_000


class Endpoint(msgspec.Struct, frozen=True):
    """Where an instance of a service is reached, as it was registered."""

    service: str
    instance_id: str
    ip: str
    port: int
    protocol: str
    node_id: str = ""
    version: str = ""
    labels: dict[str, str] = {}

    @property
    def key(self) -> Key:
        """What makes it this endpoint."""
        return self.service, self.instance_id, self.ip, self.port, self.protocol

    @property
    def address(self) -> str:
        """ip:port, as an URL says it."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    def number(self, label: str, low: int = 1) -> int:
        """A label that is a whole number from low to WEIGHT_MAX; 1 when it is none."""
        text = self.labels.get(label, "")
        return min(max(int(text), low), WEIGHT_MAX) if re.fullmatch(r"[0-9]{1,9}", text) else 1


class Load(msgspec.Struct):
    """How busy an endpoint is: calls in flight, and when it is its turn among those of its service,
    as `take_turn` counts."""

    in_flight: int = 0
    turn: float = 0.0


NO_LOAD: Final = Load()


def strategy_of(text: str) -> str | None:
    """The strategy that a word means, however it is spelled; None when it means none."""
    word = text.strip().lower().replace("_", "-")
    if word in STRATEGIES:
        return word
    return ALIASES.get(word.replace("-", ""))


def choose(endpoints: Sequence[Endpoint], strategy: str, *, load: Mapping[Key, Load],
           last: Key | None = None, draw: int = 0, sticky: str = "") -> Endpoint | None:
    """One of the endpoints, None when there is none.

    last: what the same question was answered before, for round-robin (the next one by key
    follows it) and lazy (it stays while it is among the endpoints).  draw: a random number, for
    random, weighted (by the label `weight`) and ties.  sticky: the same text has the same endpoint
    as long as that is there, and others keep theirs when it goes; without a text as lazy.
    """
    if not endpoints:
        return None
    if strategy == ROUND_ROBIN:
        ordered = sorted(endpoints, key=key_of)
        later = (one for one in ordered if last is not None and one.key > last)
        return next(later, ordered[0])
    if strategy == LEAST_LOADED:
        return least_loaded(endpoints, load, draw)
    if strategy == WEIGHTED:
        return weighted(endpoints, draw)
    if strategy == STICKY and sticky:
        return max(endpoints, key=lambda one: (_rank(sticky, one), one.key))
    if strategy in (LAZY, STICKY):
        for one in endpoints:
            if one.key == last:
                return one
    return endpoints[draw % len(endpoints)]


def weighted(endpoints: Sequence[Endpoint], draw: int) -> Endpoint:
    """One by its share of all weights; one of weight 0 only when there is no other."""
    ordered = sorted(endpoints, key=key_of)
    whole = sum(one.number("weight", 0) for one in ordered)
    left = draw % (whole or len(ordered))
    for one in ordered:
        left -= one.number("weight", 0) if whole else 1
        if left < 0:
            return one
    return ordered[-1]


def _rank(sticky: str, endpoint: Endpoint) -> bytes:
    """Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998."""
    words = "\0".join((sticky, *map(str, endpoint.key)))
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def key_of(endpoint: Endpoint) -> Key:
    """For sorting."""
    return endpoint.key


def least_loaded(endpoints: Sequence[Endpoint], load: Mapping[Key, Load],
                 draw: int) -> Endpoint:
    """The one with the fewest calls in flight by what its label `capacity` says that it can take;
    of those the one whose turn it is."""
    def burden(endpoint: Endpoint) -> tuple[float, float]:
        found = load.get(endpoint.key, NO_LOAD)
        return found.in_flight / endpoint.number("capacity"), found.turn

    lowest = min(map(burden, endpoints))
    tied = [one for one in endpoints if burden(one) == lowest]
    return tied[draw % len(tied)]


def take_turn(load: Load, room: int, now: float) -> float:
    """An endpoint is asked once more; answers what turn its service has come to.

    now: what this answered last for the service.  room: so many turns it has for one of others.
    One that is new or was away begins where the others are: what they did before it came is no
    debt of its own.  Source: Goyal, Vin and Cheng, "Start-time fair queueing", SIGCOMM 1996.
    """
    begun = max(load.turn, now)
    load.turn = begun + 1 / room
    return begun
