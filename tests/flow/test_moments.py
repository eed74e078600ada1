"""plumd.flow.moments against the standard library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.expressions import Failure, Value
from plumd.flow.moments import moment_ms


@given(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)), st.integers(-840, 840))
def test_moments_are_what_they_say(naive: datetime, offset_min: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert moment_ms(moment.isoformat()) == since // timedelta(milliseconds=1)


@pytest.mark.parametrize("value", [
    "", "soon", "2030-02-29T00:00:00Z", "2030-13-01T00:00:00Z", "2030-01-01T24:00:00Z",
    "2030-01-01", "2030-01-01T00:00:00", -1, 0, True, None, 1.5, [], 1 << 62])
def test_anything_else_is_none(value: Value) -> None:
    with pytest.raises(Failure):
        moment_ms(value)
