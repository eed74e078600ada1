"""Pure: signatures of webhooks, in both directions.

`standard` is Standard Webhooks: HMAC-SHA256 over id, time and body, so neither can be exchanged,
and an old request is refused. `github` is GitHub's X-Hub-Signature-256, over the body alone.

Source: https://www.standardwebhooks.com, specification of 2023-12; GitHub Docs, "Validating webhook
deliveries".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 300
KINDS: Final = ("standard", "github", "none")


def key_of(secret: str) -> bytes:
    """The bytes behind a secret: base64 behind its prefix, else its text. Raises: ValueError."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret[len(PREFIX):], validate=True)
    except binascii.Error:
        raise ValueError(f"behind {PREFIX} there is base64") from None


def drawn(token: str) -> str:
    """A secret made of a random text."""
    return PREFIX + base64.b64encode(token.encode()).decode()


def sign(secret: str, ident: str, at_s: int, body: bytes) -> str:
    """The value of webhook-signature."""
    text = b"%s.%d.%s" % (ident.encode(), at_s, body)
    digest = hmac.new(key_of(secret), text, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def wrong(kind: str, secret: str, headers: Mapping[str, str], body: bytes, now_s: int) -> str:
    """Why a request is not to be believed, "" if it is. headers: lower-case names."""
    if kind == "none":
        return ""
    if kind == "github":
        given = headers.get("x-hub-signature-256", "")
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return "" if same(given, f"sha256={digest}") else (
            "X-Hub-Signature-256 is missing or wrong")
    ident, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not ident or not (stamp.isascii() and stamp.isdigit() and len(stamp) < 12):
        return "webhook-id or webhook-timestamp is missing"
    if abs(int(stamp) - now_s) > TOLERANCE_S:
        return f"webhook-timestamp is more than {TOLERANCE_S} s away from now"
    expected = sign(secret, ident, int(stamp), body)
    signatures = headers.get("webhook-signature", "").split(" ")[:10]
    return "" if any(same(one, expected) for one in signatures) else (
        "webhook-signature is missing or wrong")


def same(given: str, expected: str) -> bool:
    """Whether two signatures are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())
