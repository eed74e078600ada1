"""What is different between two values: one entry for each place, steps told by their ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from plumd.expressions import Value, path_text

CHANGES_MAX: Final = 2_000
NOTHING: Final = msgspec.Raw(b"null")


class Change(msgspec.Struct, frozen=True):
    """One difference. path: like `steps[fetch].payload.n`; what: added, removed, changed, moved."""

    path: str
    what: str
    before: msgspec.Raw = NOTHING
    after: msgspec.Raw = NOTHING


def raw(value: Value) -> msgspec.Raw:
    """A value as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def changes(before: Value, after: Value) -> list[Change]:
    """All differences, at most CHANGES_MAX of them."""
    found: list[Change] = []
    for change in compare(before, after, ""):
        found.append(change)
        if len(found) == CHANGES_MAX:
            break
    return found


def compare(before: Value, after: Value, path: str) -> Iterator[Change]:
    """The differences at and below a place."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            inner = (path + path_text((key,))).lstrip(".")
            if key not in after:
                yield Change(inner, "removed", before=raw(before[key]))
            elif key not in before:
                yield Change(inner, "added", after=raw(after[key]))
            else:
                yield from compare(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list):
        yield from compare_lists(before, after, path)
    elif type(before) is not type(after) or before != after:
        yield Change(path, "changed", raw(before), raw(after))


def compare_lists(before: list[Value], after: list[Value], path: str) -> Iterator[Change]:
    """Steps are matched by their ids, other items by their places."""
    old, new = named(before), named(after)
    if old is None or new is None:
        if before and after and not any(isinstance(one, dict | list) for one in before + after):
            if before != after:         # a list of words is told as a whole
                yield Change(path, "changed", raw(before), raw(after))
            return
        old = {str(index): item for index, item in enumerate(before)}
        new = {str(index): item for index, item in enumerate(after)}
    for name, item in old.items():
        if name not in new:
            yield Change(f"{path}[{name}]", "removed", before=raw(item))
        else:
            yield from compare(item, new[name], f"{path}[{name}]")
    for name, item in new.items():
        if name not in old:
            yield Change(f"{path}[{name}]", "added", after=raw(item))
    kept = [name for name in old if name in new], [name for name in new if name in old]
    if kept[0] != kept[1]:
        yield Change(path, "moved", raw(list(kept[0])), raw(list(kept[1])))


def named(items: list[Value]) -> dict[str, Value] | None:
    """Items by their ids; None unless all have one of their own."""
    found: dict[str, Value] = {}
    for item in items:
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or name in found:
            return None
        found[name] = item
    return found
