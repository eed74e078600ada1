"""Here it dies and comes again, and is weighed: so it is begun as people begin it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import Cold, Running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """A running plumd with fresh data, stopped at the end."""
    with Cold(tmp_path / "data") as running:
        yield running
