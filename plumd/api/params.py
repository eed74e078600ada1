"""Path, query and header values become typed ones here, or an error that names the parameter.

Source: RFC 3986 (percent-encoding), RFC 9110 sections 13.1.1 and 13.1.2 (If-Match,
If-None-Match), RFC 7240 (Prefer), the HTTPAPI draft of the Idempotency-Key header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from plumd.errors import Invalid, Malformed
from plumd.store.precondition import ABSENT, ANY

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
WAIT_S_MAX: Final = 60

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
_VERSION_TAG = re.compile(r'"?([0-9]{1,18})"?')


def unquote(raw: str) -> str:
    """A percent-encoded text decoded. Raises Malformed when it is not UTF-8."""
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Malformed("the path or query is not UTF-8 once percent-decoded") from None


def parse_query(raw: str) -> dict[str, str]:
    """The first value of each key of a query string. Raises Malformed when it is not UTF-8."""
    values: dict[str, str] = {}
    if raw:
        for part in raw.split("&"):
            if part:
                key, _, value = part.partition("=")
                values.setdefault(unquote(key.replace("+", " ")), unquote(value.replace("+", " ")))
    return values


def query_int(query: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """A whole number within low .. high. Raises Invalid naming the parameter."""
    text = query.get(name)
    if text is None or text == "":
        return default
    if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
        raise Invalid(f"{name} must be a whole number from {low} to {high}", field=name)
    return int(text)


def query_bool(query: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """true/1/yes or false/0/no; a key without a value means true. Raises Invalid."""
    text = query.get(name)
    if text is None:
        return default
    lowered = text.lower()
    if lowered in ("", "true", "1", "yes"):
        return True
    if lowered in ("false", "0", "no"):
        return False
    raise Invalid(f"{name} must be true or false", field=name)


def query_choice(query: Mapping[str, str], name: str, choices: tuple[str, ...],
                 default: str = "") -> str:
    """One of the given words, whatever its case, spelled as given. Raises Invalid."""
    text = query.get(name)
    if text is None or text == "":
        return default
    for choice in choices:
        if choice.lower() == text.lower():
            return choice
    raise Invalid(f"{name} must be one of: {', '.join(choices)}", field=name)


def query_action(query: Mapping[str, str], actions: tuple[str, ...]) -> str:
    """What `?action=` asks for, which must be one of these. Raises Invalid."""
    action = query_choice(query, "action", actions)
    if not action:
        raise Invalid(f"action is one of {', '.join(actions)}" if len(actions) > 1
                      else f"action is {actions[0]}", field="action")
    return action


def query_text(query: Mapping[str, str], name: str, *, chars_max: int = 1024) -> str:
    """A text that must be there. Raises Invalid."""
    text = query.get(name, "")
    if not text:
        raise Invalid(f"the query parameter {name} is missing", field=name)
    if len(text) > chars_max:
        raise Invalid(f"{name} is longer than {chars_max} characters", field=name)
    return text


def if_version(headers: Mapping[str, str]) -> int | None:
    """The version that If-Match or If-None-Match asks for, as `precondition.check` takes it; None
    without either.

    Raises Invalid when If-Match is neither `*` nor a single version tag, which look like `"3"`, or
    If-None-Match is not `*` alone.
    """
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if none_match is not None:
        if none_match.strip() != "*" or match is not None:
            raise Invalid("If-None-Match is * here, and stands alone", field="If-None-Match")
        return ABSENT
    if match is None:
        return None
    if match.strip() == "*":
        return ANY
    found = _VERSION_TAG.fullmatch(match.strip())
    if found is None:
        raise Invalid('If-Match is one version, like "3", or *', field="If-Match")
    return int(found[1])


def has(if_none_match: str, tag: str) -> bool:
    """Whether the client's copy is this one (weak comparison, as the RFC wants of GET)."""
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in if_none_match.split(","))


def prefer_wait_s(headers: Mapping[str, str], *, high_s: int = WAIT_S_MAX) -> int:
    """How long the caller asks to wait (`Prefer: wait=N`), at most high_s; 0 when it does not.

    What cannot be understood is ignored, as the RFC wants of preferences.
    """
    text = headers.get("prefer")
    found = _WAIT.search(text) if text is not None else None
    return min(int(found[1]), high_s) if found is not None else 0


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The Idempotency-Key: 1 to 255 visible ASCII characters; None without one. Raises Invalid."""
    text = headers.get("idempotency-key")
    if text is None:
        return None
    if len(text) > IDEMPOTENCY_KEY_CHARS_MAX or not _VISIBLE.fullmatch(text):
        raise Invalid(f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII "
                      "characters", field="Idempotency-Key")
    return text
