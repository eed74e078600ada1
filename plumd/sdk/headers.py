"""What may stand in the headers of a request."""

from __future__ import annotations

from collections.abc import Mapping


def sendable(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers as they are. Raises: ValueError for one that cannot be sent or begins another."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{name} cannot be sent: a header has visible ASCII characters")
    return headers


def token_header(token: str | None) -> dict[str, str]:
    """How a token is shown, if there is one. Raises: ValueError; it does not tell the token."""
    if token is None:
        return {}
    if not (token.isascii() and token.isprintable()) or not token or " " in token:
        raise ValueError("a token has visible ASCII characters, and no line break at its end")
    return {"Authorization": f"Bearer {token}"}
