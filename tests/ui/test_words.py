"""The UI has words for every code that plumd gives for why something waits."""

from __future__ import annotations

import json
import re

from tests.ui.screen import ROOT


def test_every_cause_has_words() -> None:
    codes = {code for path in (ROOT / "plumd").rglob("*.p*")
             if path.suffix in (".py", ".pyx", ".pxi")
             for code in re.findall(r"\bCause\(\s*\"(\w+)\"", path.read_text())}
    assert {"no_worker", "needs", "rate_limit", "no_endpoint"} <= codes
    words = json.loads((ROOT / "ui/src/locales/en.json").read_text())["why"]
    assert codes == set(words) - {"title", "toWorkers"}
