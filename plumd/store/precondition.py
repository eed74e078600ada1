"""Whether what somebody changes is still at the version that they have seen."""

from __future__ import annotations

from typing import Final

from plumd.errors import VersionMismatch, WrongState

ABSENT: Final = 0
"""The version of what is not there; asked for by those who only create."""
ANY: Final = -1
"""Asked for by those who only change what is there."""


def is_met(current: int, wanted: int | None) -> bool:
    """Whether the current version is the one that is wanted; None = whatever it is."""
    return wanted in (None, current) or (wanted == ANY and current != ABSENT)


def check(current: int, wanted: int | None) -> None:
    """Raises VersionMismatch when the current version is not the one that is wanted."""
    if not is_met(current, wanted):
        state = "it is not there" if current == ABSENT else f"the current version is {current}"
        raise VersionMismatch(state if wanted in (ANY, ABSENT) else f"{state}, not {wanted}")


def still(current: int, looked_at: int) -> None:
    """For who writes what he makes of a row that he has looked at. Raises WrongState when another
    version is current by now."""
    if current != looked_at:
        raise WrongState("somebody else has changed it in this moment; look and try again")
