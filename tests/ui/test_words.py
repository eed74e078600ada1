"""The UI has words for every code that plumd gives: why something waits, failed or was refused."""

from __future__ import annotations

import json
import re

from plumd import artifact, placement, rollout
from plumd.errors import CODES
from tests.ui.screen import ROOT

GIVEN = ("TaskError", "failed", "_failure", "CallFailed", "Failure")
"""What is called with the code of a failure."""


def words(*path: str) -> set[str]:
    """The keys of a part of the catalogue."""
    found = json.loads((ROOT / "ui/src/locales/en.json").read_text())
    for key in path:
        found = found[key]
    return set(found)


def codes(pattern: str) -> set[str]:
    """What a pattern finds in plumd."""
    sources = (path for path in (ROOT / "plumd").rglob("*.p*")
               if path.suffix in (".py", ".pyx", ".pxi"))
    return {code for path in sources for code in re.findall(pattern, path.read_text())}


def test_every_cause_has_words() -> None:
    found = codes(r"\bCause\(\s*\"(\w+)\"")
    assert {"no_worker", "needs", "rate_limit", "no_endpoint"} <= found
    assert found == words("why") - {"title", "toWorkers"}


def test_every_error_has_words() -> None:
    assert set(CODES) <= words("problem")


def test_every_reason_has_words() -> None:
    found = codes(r"\breason\(\s*\"(\w+)\"")
    assert {"agent_away", "app_exists"} <= found
    assert {*placement.SAID, *artifact.SAID, *found} <= words("reason")
    assert {*rollout.RENEWALS, rollout.LOST, rollout.SCALED} == words("instance", "retiredBy")


def test_every_failure_has_words() -> None:
    """`failed` and `unknown` say nothing beside their message."""
    found = codes(rf"\b(?:{'|'.join(GIVEN)})\(\s*(?:attempt, )?\"(\w+)\"")
    found |= codes(r"\breason=\"(\w+)\"")
    assert {"unreachable", "http_status", "start_failed", "blackout"} <= found
    assert found - {"failed", "unknown"} <= words("because") | words("problem")
