"""The kept list stays true: each fault still has its place in the code."""

from __future__ import annotations

from collections import Counter

from tests.mutants.__main__ import ROOT
from tests.mutants.faults import FAULTS


def test_each_fault_has_one_place() -> None:
    lost = [fault.breaks for fault in FAULTS
            if (ROOT / fault.file).read_text().count(fault.old) != 1]
    assert not lost, "the code has changed there: say anew where the fault goes"
    assert not [words for words, count in Counter(one.breaks for one in FAULTS).items()
                if count > 1]
