"""The text that users read is true: examples run, links lead somewhere, nothing is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import pytest

from docs import reference
from plumd import artifact, placement
from plumd.config import SETTINGS
from plumd.errors import CODES, PlumError
from tests.daemon.running import BIN, Running, clean_environment, free_port

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\S*) ?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
BASH = ("setpriv", "--pdeathsig", "KILL", "bash", "-euo", "pipefail", "-c")
"""A shell that ends with whoever runs the tests, as a loop in it would not by itself."""


class Block(NamedTuple):
    """A fenced block: its language, the words behind it, its text and its line."""

    language: str
    words: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(found[1], found[2], found[3], text.count("\n", 0, found.start()) + 1)
            for found in FENCE.finditer(text)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text())


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_bash(text: str, environment: dict[str, str], seconds: float) -> str:
    """What a script printed. All that it started is ended with it, by process group."""
    process = subprocess.Popen([*BASH, text], cwd=ROOT, env=environment, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    assert process.returncode == 0, f"exit code {process.returncode}:\n{said}"
    return said


# ---------------------------------------------------------------- examples

@pytest.mark.daemon
def test_the_quick_start_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    script = "".join(block.text for block in blocks(ROOT / "README.md")
                     if block.language == "bash")
    environment = clean_environment() | {
        "PLUMD_LISTEN": f"127.0.0.1:{free_port()}", "PLUMD_DATA_DIR": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    # Its processes are killed by their ids if it fails half way.
    said = run_bash("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + script, environment, 300)

    assert said.count('"words": 3') >= 1
    assert '"service": "my-service"' in said
    assert "looking at /etc" in said
    assert "no_worker: " in said
    assert "nobody answers" in said
    # Of the run that was interrupted: one attempt, and a log without a gap.
    end = said[said.rindex("slow report"):]
    assert re.search(r"^1 +[0-9a-f]+ +succeeded", end, re.MULTILINE), end
    assert re.search(r"4 s to go\n3 s to go\n2 s to go\n1 s to go\n", end), end


def test_the_chinese_readme_has_the_same_commands_and_tables() -> None:
    def commands(name: str) -> list[str]:
        return [re.sub(r" +#.*", "", block.text).rstrip() for block in blocks(ROOT / name)]

    def shape(name: str) -> list[str]:
        """Headings, list items and rows, each by its first sign."""
        lines = prose(ROOT / name).splitlines()
        return [mark[0] for text in lines if (mark := re.match(r"#+ |\d+\. |- |\|", text))]

    assert commands("README.zh.md") == commands("README.md")
    assert shape("README.zh.md") == shape("README.md")


@pytest.mark.daemon
def test_the_worker_of_the_readme_is_short_and_works(shared_daemon: Running,
                                                     tmp_path: Path) -> None:
    [block] = [block for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert len(block.text.splitlines()) <= 10
    script = tmp_path / "worker.py"
    script.write_text(block.text)
    environment = clean_environment() | {"PLUM_SERVER": shared_daemon.url}
    process = subprocess.Popen([sys.executable, script], cwd=ROOT, env=environment)
    try:
        ran = shared_daemon.plum("task", "run", "shout", "-p", '{"text": "it works"}', "--wait",
                                 "--wait-timeout", "30", "-o", "json")
        assert '"IT WORKS"' in ran.stdout, ran
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if "runnable" in block.words.split()]


@pytest.fixture(scope="module")
def shared_worker(shared_daemon: Running) -> Iterator[Running]:
    """The daemon of all pages' examples, with the example worker beside it."""
    process = subprocess.Popen([sys.executable, "examples/worker.py", shared_daemon.url], cwd=ROOT,
                               stderr=subprocess.DEVNULL, env=clean_environment())
    try:
        yield shared_daemon
    finally:
        process.kill()
        process.wait()


@pytest.mark.daemon
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_the_runnable_examples_of_a_page_run(page: Path, shared_worker: Running,
                                             tmp_path: Path) -> None:
    url = shared_worker.url
    environment = clean_environment() | {
        "PATH": f"{BIN}:{os.environ['PATH']}", "PLUM_SERVER": url, "CONTROLLER_BASE": url,
        "TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    for block in runnable(page):
        text = block.text
        if block.language == "python":
            script = tmp_path / f"line_{block.line}.py"
            script.write_text(text)
            text = f"{sys.executable} {script}"
        try:
            run_bash(text, environment, 60)
        except AssertionError as error:
            pytest.fail(f"{name_of(page)}:{block.line}: {error}")


# ---------------------------------------------------------------- links

def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path) if path else page
        assert where.exists(), f"{name_of(page)} points to {target}, which is not there"
        assert not anchor or anchor in anchors(where), f"{name_of(page)}: no heading for {target}"


def test_every_page_can_be_reached_from_the_index() -> None:
    linked = set(LINK.findall(prose(ROOT / "docs" / "index.md")))
    missing = {page.name for page in (ROOT / "docs").glob("*.md")} - linked - {"index.md"}
    assert not missing


# ---------------------------------------------------------------- completeness

def test_generated_pages_are_as_the_code_makes_them() -> None:
    for page, text in reference.pages().items():
        assert page.read_text() == text, f"{name_of(page)} is old: run python -m docs.reference"


def test_every_error_code_is_explained() -> None:
    titles = set(re.findall(r"^### `(\w+)`", (ROOT / "docs" / "errors.md").read_text(),
                            re.MULTILINE))
    assert titles == set(CODES) | {PlumError.code}


def test_every_error_code_has_its_status_in_the_page() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for code, kind in CODES.items():
        assert re.search(rf"^### `{code}` \({kind.status}\)$", text, re.MULTILINE), code


def test_every_cause_of_waiting_is_explained() -> None:
    core = "".join(path.read_text() for path in (ROOT / "plumd").glob("_*.p[xy][ix]"))
    codes = set(re.findall(r'Cause\(\s*"(\w+)"', core))
    text = (ROOT / "docs" / "tasks.md").read_text()
    assert len(codes) > 5
    assert not {code for code in codes if f"| `{code}` |" not in text}


def test_every_setting_is_in_the_page() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for setting in SETTINGS:
        assert f"`{setting.name}`" in text
        for old in setting.env:
            assert f"`{old}`" in text, old


def test_every_route_is_in_the_page() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for route in reference.routes():
        assert f"| `{route.method}` | `{route.path}` |" in text


def test_every_old_clients_route_is_in_the_compatibility_page() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    missing = [f"{route.method} {route.path}" for route in reference.routes()
               if route.lenient and f"{route.method} {route.path}" not in text]
    assert not missing


def test_every_command_is_in_the_cli_page() -> None:
    import click

    from plumd.cli import plum

    text = (ROOT / "docs" / "cli.md").read_text()
    for noun, group in plum.commands.items():
        verbs = group.commands if isinstance(group, click.Group) else {"": group}
        for verb, command in verbs.items():
            words = f"plum {noun} {verb}".strip()
            assert f"`{words}" in text, f"{words} is missing"
            for parameter in command.params:
                long = [name for name in parameter.opts if name.startswith("--")]
                assert not long or long[-1] in text, f"{words} {long}"


def test_the_promises_stand_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for number in range(1, 8):
        assert re.search(rf"^{number}\. ", text, re.MULTILINE)


def test_every_reason_is_documented_and_translated() -> None:
    page = (ROOT / "docs" / "deployments.md").read_text()
    for language in ("en", "zh"):
        words = json.loads((ROOT / "ui/src/locales" / f"{language}.json").read_text())["reason"]
        for said in (placement.SAID, artifact.SAID):
            for code, sentence in said.items():
                assert f"`{code}`" in page, code
                slots = {field for _, field, _, _ in Formatter().parse(sentence) if field}
                assert set(re.findall(r"{(\w+)}", words[code])) == slots, (language, code)
