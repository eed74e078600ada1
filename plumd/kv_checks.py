"""Pure: what namespaces, keys, values and locks of the key-value store may be."""

from __future__ import annotations

from typing import Final

from plumd.errors import Invalid, TooLarge
from plumd.values import wrong

VALUE_BYTES_MAX: Final = 1 << 20
KEY_BYTES_MAX: Final = 512
NAMESPACE_CHARS_MAX: Final = 100
LOCK_CHARS_MAX: Final = 200


def check_namespace(text: str, field: str = "namespace") -> str:
    """A namespace's name. Raises: Invalid."""
    if not 0 < len(text) <= NAMESPACE_CHARS_MAX or "/" in text or not text.isprintable():
        raise Invalid(f"a namespace has 1 to {NAMESPACE_CHARS_MAX} printable characters and no /",
                      field=field)
    return text


def check_key(text: str, field: str = "key") -> str:
    """A key. Raises: Invalid."""
    if not 0 < len(text.encode()) <= KEY_BYTES_MAX or "\0" in text:
        raise Invalid(f"a key has 1 to {KEY_BYTES_MAX} bytes of UTF-8 and no NUL", field=field)
    return text


def check_value(text: str, kind: str, field: str = "value") -> str:
    """A value of its type. Raises: Invalid, TooLarge."""
    if len(text.encode()) > VALUE_BYTES_MAX:
        raise TooLarge(f"the value is larger than {VALUE_BYTES_MAX} bytes", field=field)
    if why := wrong(kind, text):
        raise Invalid(f"this is no {kind}: {why}", field=field)
    return text


def check_lock(text: str, field: str = "lock") -> str:
    """A lock's name. Raises: Invalid."""
    if not 0 < len(text) <= LOCK_CHARS_MAX or not text.isprintable():
        raise Invalid(f"a lock's name has 1 to {LOCK_CHARS_MAX} printable characters",
                      field=field)
    return text


def ttl_ms(seconds: float | None) -> int:
    """A time to live as the store takes it, 0 = for ever."""
    return 0 if seconds is None else max(1, round(seconds * 1000))
