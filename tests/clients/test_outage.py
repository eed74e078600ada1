"""The short form of an outage under load; `make clients` runs those of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.kinds import KINDS
from tests.clients.outage import Outage, overlaps

pytestmark = pytest.mark.daemon


@pytest.mark.parametrize("what", ["controller", "network"])
def test_an_outage_longer_than_a_lease(what: str, tmp_path: Path) -> None:
    kinds = [KINDS["c"], KINDS["python"], KINDS["python-poll"]]
    found = Outage(tmp_path, kinds, 1, 4, what).run()
    assert found.wrong == []
    assert found.ended_meanwhile > 0
    assert set(found.back_s) == {"c-0", "python-0", "python-poll-0"}


def test_the_auditor_sees_what_overlaps() -> None:
    assert overlaps(["1", "2", "-1", "1.2", "-1.2", "-2"]) == []
    assert overlaps(["1", "1.2", "-1", "-1.2"]) == ["attempt 1.2 was started while 1 ran"]
