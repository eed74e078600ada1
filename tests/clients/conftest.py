"""What the conformance suite shares: compiled workers, and a daemon that may be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon.running import Running
from tests.sdk_c.building import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Where the C and C++ workers are built."""
    return Workshop(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def mortal_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One plumd for all tests of a file that kill it and start it again."""
    with Running(tmp_path_factory.mktemp("mortal") / "data") as running:
        yield running
