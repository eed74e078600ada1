"""What the tests of the C SDK share: programs that are built once."""

from __future__ import annotations

import pytest

from tests.sdk_c.building import Workshop

MANY = 30


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Where the test run's C programs are built."""
    shop = Workshop(tmp_path_factory.mktemp("sdk-c"))
    if request.session.testscollected > MANY:
        shop.begin()
    return shop
