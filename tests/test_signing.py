"""plumd.signing: known vectors, and whatever is changed is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.signing import drawn, key_of, sign, wrong

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
SIGNED = {"webhook-id": ID, "webhook-timestamp": str(AT),
          "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}
"""The vector of the specification's own reference libraries."""


def test_known_vectors() -> None:
    assert sign(SECRET, ID, AT, BODY) == SIGNED["webhook-signature"]
    assert wrong("standard", SECRET, SIGNED, BODY, AT + 299) == ""
    github = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert wrong("github", "It's a Secret to Everybody", {"x-hub-signature-256": github},
                 b"Hello, World!", 0) == ""      # of GitHub's documentation
    assert wrong("none", "", {}, b"", 0) == ""


@pytest.mark.parametrize("changed", [
    {"webhook-id": "other"}, {"webhook-timestamp": str(AT + 1)}, {"webhook-timestamp": "x"},
    {"webhook-signature": ""}, {"webhook-signature": "v1,AAAA"}, {"webhook-signature": "é"},
    {"webhook-id": ""}])
def test_what_is_changed_is_noticed(changed: dict[str, str]) -> None:
    assert wrong("standard", SECRET, SIGNED | changed, BODY, AT)
    assert wrong("standard", SECRET, SIGNED, BODY + b" ", AT)
    assert wrong("standard", drawn("x"), SIGNED, BODY, AT)


def test_old_requests_and_several_signatures() -> None:
    assert "300 s" in wrong("standard", SECRET, SIGNED, BODY, AT + 301)
    assert "300 s" in wrong("standard", SECRET, SIGNED, BODY, AT - 301)
    two = SIGNED | {"webhook-signature": "v1,b2xk " + SIGNED["webhook-signature"]}
    assert wrong("standard", SECRET, two, BODY, AT) == ""


@given(st.text(min_size=1, max_size=40), st.binary(max_size=100), st.binary(max_size=100))
def test_github_takes_its_own_alone(secret: str, body: bytes, other: bytes) -> None:
    import hashlib
    import hmac
    good = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    said = wrong("github", secret, {"x-hub-signature-256": good}, other, 0)
    assert (said == "") == (body == other)


def test_secrets() -> None:
    assert key_of("plain text") == b"plain text"
    assert len(key_of(drawn("a" * 43))) == 43
    with pytest.raises(ValueError, match="base64"):
        key_of("whsec_***")
