"""What steps of past runs took, for forecasts."""

from __future__ import annotations

from typing import Final

import apsw

from plumd.store import sql
from plumd.store.flows import STEPS, StepEnd

SQL: Final = sql.load("history")


def ended(db: apsw.Connection, workflow_id: int, limit: int) -> list[tuple[int, list[StepEnd]]]:
    """(version, ends of the outer steps) of a workflow's newest runs that are over."""
    rows = db.execute(SQL["ended"], (workflow_id, limit))
    return [(row[0], STEPS(row[1])) for row in rows if row[1] is not None]
