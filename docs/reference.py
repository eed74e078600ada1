"""Makes the parts of the docs that the code knows best: `python -m docs.reference` writes them.

A test compares the pages with what is made here, so they cannot grow old unseen. With a file's
name it writes the OpenAPI document there instead.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

import plumd
from plumd import config
from plumd.api.openapi import document
from plumd.api.routes import Route
from plumd.config import SETTINGS, Setting
from plumd.daemon import Daemon
from plumd.executors import builtin
from plumd.flow.rules import truth_table

DOCS = Path(__file__).parent
BEGIN, END = "<!-- made by docs/reference.py -->\n", "<!-- until here -->\n"


def routes() -> Sequence[Route]:
    """The table of all routes, from a daemon that is built but not started."""
    with tempfile.TemporaryDirectory() as folder:
        # Without the web UI, built or not, so that the page is the same everywhere.
        daemon = Daemon(config.load({"data_dir": folder}, {}, None), static=Path(folder, "none"))
        try:
            return daemon.routes
        finally:
            daemon.close()


def settings_table() -> str:
    """A row a setting."""
    lines = ["| setting | default | bounds | older names | what it is |\n",
             "|---|---|---|---|---|\n"]
    for one in SETTINGS:
        old = ", ".join(f"`{name}`" for name in one.env)
        lines.append(f"| `{one.name}` | {default_of(one)} | {bounds_of(one)} | {old} | "
                     f"{one.help.replace('<', '&lt;')} |\n")
    return "".join(lines)


def default_of(one: Setting) -> str:
    """A default as the page shows it."""
    if one.make is not None:
        return "see text"
    if isinstance(one.default, tuple):
        return "none"
    if isinstance(one.default, bool):
        return str(one.default).lower()
    return f"`{one.default}`" if one.default != "" else "none"


def bounds_of(one: Setting) -> str:
    """What a value may be."""
    if one.choices:
        return ", ".join(one.choices)
    if isinstance(one.default, bool) or not isinstance(one.default, int | float):
        return ""
    if one.high == Setting("", 0, "").high:
        return f"from {one.low:,}"
    return f"{one.low:,} to {one.high:,}"


def routes_table() -> str:
    """A row a route, in groups by tag."""
    found = routes()
    parts = []
    for tag in dict.fromkeys(route.tag for route in found):
        parts.append(f"\n## {tag.capitalize()}\n\n| method | path | what | answers |\n"
                     "|---|---|---|---|\n")
        for route in found:
            if route.tag == tag:
                marks = " (old clients)" if route.lenient else ""
                answers = ", ".join(str(status) for status in sorted(route.answers)) or "200"
                parts.append(f"| `{route.method}` | `{route.path}` | {route.summary}{marks} | "
                             f"{answers} |\n")
    return "".join(parts) + "\n"


def builtins_table() -> str:
    """A row a builtin."""
    lines = ["| name | what it does | payload, for example | result |\n", "|---|---|---|---|\n"]
    lines += [f"| `{each.name}` | {each.description} | "
              f"`{bytes(each.example).decode()}` | {each.result} |\n"
              for each in builtin.TABLE]
    return "".join(lines)


def filled(page: Path, made: str) -> str:
    """A page with its made part renewed."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{page} has no {BEGIN!r}"
    assert end, f"{page} has no {END!r}"
    return before + begin + made + end + after


def rules_table() -> str:
    """A row a trigger rule: what a step does for each mix of ends before it."""
    mixes = ("both succeeded", "one succeeded, one failed", "one succeeded, one skipped",
             "both failed", "one failed, one skipped", "both skipped")
    lines = [f"| triggerRule | {' | '.join(mixes)} |\n", "|---|---|---|---|---|---|---|\n"]
    lines += ["| `" + rule + "` | " + " | ".join(said) + " |\n" for rule, *said in truth_table()]
    return "".join(lines)


def pages() -> dict[Path, str]:
    """The pages with made parts, as they shall be."""
    return {
        DOCS / "configuration.md": filled(DOCS / "configuration.md", settings_table()),
        DOCS / "api.md": filled(DOCS / "api.md", routes_table()),
        DOCS / "workflows.md": filled(DOCS / "workflows.md", rules_table()),
        DOCS / "tasks.md": filled(DOCS / "tasks.md", builtins_table()),
    }


def openapi() -> bytes:
    """The OpenAPI document, from which the web UI's types are made."""
    return msgspec.json.format(msgspec.json.encode(
        document(routes(), version=plumd.__version__)), indent=1) + b"\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_bytes(openapi())
    else:
        for path, text in pages().items():
            path.write_text(text)
