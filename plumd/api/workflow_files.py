"""Workflows as files: YAML in and out, and what saving a file would change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
import trio
from msgspec import Meta

from plumd.api.context import ENCODE, Context, answer, id_param
from plumd.api.decode import strict
from plumd.api.openapi import YamlText
from plumd.api.params import query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.tasks import BODY_MAX
from plumd.api.workflows import Workflows, WorkflowWrite
from plumd.bodies import TaskDefBody, WorkflowBody
from plumd.errors import Exists, Invalid, Malformed, TooLarge
from plumd.expressions import Value
from plumd.flow import yaml_form
from plumd.flow.difference import Change, changes
from plumd.flow.portable import portable
from plumd.flow.yaml_form import Document
from plumd.model import id_text, parse_id
from plumd.planner import Known
from plumd.store import definitions
from plumd.store.definitions import WORKFLOWS, Catalog, Versioned
from plumd.store.store import Tx

E = TypeVar("E", Invalid, Malformed)
YAML: Final = "application/yaml"
FILES_MAX: Final = 500
Text = Annotated[str, Meta(max_length=yaml_form.TEXT_CHARS_MAX)]


class File(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
           omit_defaults=True):
    """One or more workflows as YAML documents. name: stands before the line in what is refused."""

    yaml: Text
    name: Annotated[str, Meta(max_length=500)] = ""


class FilesAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                 omit_defaults=True):
    """Files that are saved together. dryRun: say what would change, and change nothing."""

    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=FILES_MAX)]
    dry_run: bool = False


class YamlView(msgspec.Struct, frozen=True):
    """A workflow as a YAML document."""

    yaml: str


class Flaw(msgspec.Struct, frozen=True):
    """What saving would refuse. code: that of the refusal; field: the place, "" = all of it."""

    code: str
    field: str
    detail: str


class Validated(msgspec.Struct, frozen=True):
    """Whether a workflow could be saved as it is; the flaw that is found first is named."""

    ok: bool
    flaws: tuple[Flaw, ...]


class Applied(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a document. change: created, updated or unchanged; version: the current one
    afterwards; workflowId: null where nothing was made yet."""

    name: str
    change: str
    workflow_id: str | None
    version: int
    changes: Sequence[Change]


class Overlay:
    """The definitions of now, with workflows that are about to be saved."""

    def __init__(self, catalog: Catalog, coming: dict[str, int]) -> None:
        """coming: name -> id."""
        self.catalog = catalog
        self.coming = coming
        self.names = {number: name for name, number in coming.items()}

    def task_def(self, number: int) -> Versioned[TaskDefBody] | None:
        """By id."""
        return self.catalog.task_def(number)

    def task_def_named(self, name: str) -> Versioned[TaskDefBody] | None:
        """By name."""
        return self.catalog.task_def_named(name)

    def workflow(self, number: int) -> Versioned[WorkflowBody] | None:
        """By id."""
        if number in self.names:
            return Versioned(number, 1, WorkflowBody(self.names[number], ()), 0, 0)
        return self.catalog.workflow(number)

    def workflow_named(self, name: str) -> Versioned[WorkflowBody] | None:
        """By name."""
        if name in self.coming:
            return self.workflow(self.coming[name])
        return self.catalog.workflow_named(name)


class Draft(msgspec.Struct, frozen=True):
    """A document with the workflow that it says, and the name of its file."""

    file: str
    document: Document
    given: WorkflowWrite

    def wrong(self, error: Invalid) -> Invalid:
        """The same with its place."""
        return in_file(self.file, yaml_form.located(self.document, error))


def in_file(name: str, error: E) -> E:
    """A refusal that names its file."""
    return type(error)(f"{name}: {error.detail}" if name else error.detail, field=error.field)


class Step(msgspec.Struct, frozen=True):
    """A document on its way to being saved. old: None = it is new."""

    number: int
    body: WorkflowBody
    old: Versioned[WorkflowBody] | None
    applied: Applied


class WorkflowFiles:
    """The handlers."""

    def __init__(self, context: Context, workflows: Workflows) -> None:
        self.context = context
        self.workflows = workflows

    async def documents(self, files: Sequence[File]) -> list[Draft]:
        """The workflows of files. Raises: Malformed, Invalid, with line and column."""
        drafts: list[Draft] = []
        names: set[str] = set()
        for file in files:
            try:
                found = await trio.to_thread.run_sync(yaml_form.read, file.yaml)
            except Malformed as error:
                raise in_file(file.name, error) from None
            for document in found:
                draft = draft_of(file.name, document)
                if draft.given.name in names:
                    raise draft.wrong(Invalid(f"a workflow named {draft.given.name!r} stands "
                                              "before it", field="name"))
                names.add(draft.given.name)
                drafts.append(draft)
        if not drafts:
            raise Invalid("there is no workflow in it", field="yaml")
        return drafts

    def planned(self, drafts: Sequence[Draft]) -> list[Step]:
        """What saving would do; documents may refer to each other. Raises: Invalid."""
        catalog, new_id = self.context.catalog, self.context.engine.new_id
        known = {draft.given.name: catalog.workflow_named(draft.given.name) for draft in drafts}
        numbers = {name: new_id() if old is None else old.id for name, old in known.items()}
        overlay = Overlay(catalog, {name: numbers[name] for name, old in known.items()
                                    if old is None})
        steps = []
        for draft in drafts:
            name = draft.given.name
            try:
                body = self.workflows.checked(draft.given, overlay)
            except Invalid as error:
                raise draft.wrong(error) from None
            steps.append(Step(numbers[name], body, known[name],
                              self.difference(numbers[name], body, known[name], overlay)))
        return steps

    def difference(self, number: int, body: WorkflowBody, old: Versioned[WorkflowBody] | None,
                   overlay: Overlay) -> Applied:
        """What a body changes."""
        if old is None:
            return Applied(body.name, "created", id_text(number), 1, ())
        found = changes(portable_of(old.body, overlay), portable_of(body, overlay))
        if not found:
            return Applied(body.name, "unchanged", id_text(old.id), old.version, ())
        return Applied(body.name, "updated", id_text(old.id), old.version + 1, found)

    async def apply(self, request: Request) -> Response:
        """Save all documents, or none."""
        asked = strict(request.body, FilesAsked)
        steps = self.planned(await self.documents(asked.files))
        if asked.dry_run:
            return answer(200, [one.applied if one.old is not None else
                                msgspec.structs.replace(one.applied, workflow_id=None)
                                for one in steps])

        def write(tx: Tx) -> None:
            for one in steps:
                if one.old is None:
                    definitions.create(tx, WORKFLOWS, one.number, one.body)
                elif one.applied.change == "updated":
                    definitions.update(tx, WORKFLOWS, one.number, one.body, one.old.version)

        if any(one.applied.change != "unchanged" for one in steps):
            await self.context.define(write)
        return answer(200, [one.applied for one in steps])

    async def parse(self, request: Request) -> Response:
        """The documents as JSON bodies, checked like one that is saved; nothing is."""
        drafts = await self.documents((strict(request.body, File),))
        self.planned(drafts)
        return answer(200, [draft.given for draft in drafts])

    async def validate(self, request: Request) -> Response:
        """What saving it would refuse; nothing is saved. A body that is no JSON is refused."""
        try:
            self.could_be_saved(request)
        except (Invalid, TooLarge, Exists) as error:
            flaw = Flaw(error.code, error.field or "", error.detail)
            return answer(200, Validated(ok=False, flaws=(flaw,)))
        return answer(200, Validated(ok=True, flaws=()))

    def could_be_saved(self, request: Request) -> None:
        """Raises: Malformed, Invalid, TooLarge, Exists."""
        number = parse_id(request.query.get("workflowId", "")) or 0
        given = strict(request.body, WorkflowWrite)
        self.workflows.checked(given, self.context.catalog)
        namesake = self.context.catalog.workflow_named(given.name)
        if namesake is not None and namesake.id != number:
            raise Exists(f"a workflow named {given.name!r} exists", field="name")

    async def render(self, request: Request) -> Response:
        """A body as YAML, which need not be right yet."""
        given = strict(request.body, WorkflowWrite)
        body = WorkflowBody(given.name, given.steps, given.description, given.params,
                            given.timeout_sec, given.result, given.on_failure)
        return answer(200, YamlView(yaml_form.write(portable_of(body, self.context.catalog))))

    async def export(self, request: Request) -> Response:
        """The current version, or the one of ?version=, as a file."""
        found = self.workflows.current(id_param(request, "workflow"))
        wanted = query_int(request.query, "version", 0, low=1, high=1 << 31)
        body = self.workflows.version_of(found, wanted).body
        text = yaml_form.write(portable_of(body, self.context.catalog))
        return Response(200, text.encode(), YAML)


def draft_of(name: str, document: Document) -> Draft:
    """What a document says. Raises: Invalid, Malformed."""
    try:
        return Draft(name, document, strict(ENCODE(document.value), WorkflowWrite))
    except Invalid as error:
        raise in_file(name, yaml_form.located(document, error)) from None


def portable_of(body: WorkflowBody, known: Known) -> dict[str, Value]:
    """A workflow's values as they stand in a file."""

    def name_of(field: str, reference: str) -> str:
        look: Callable[[int], Versioned[WorkflowBody] | Versioned[TaskDefBody] | None] = (
            known.workflow if field == "workflow" else known.task_def)
        found = look(parse_id(reference) or 0)
        if found is None or look(parse_id(found.body.name) or 0) is not None:
            return reference        # a name that is another one's id means that one
        return found.body.name

    return portable(body, name_of)


def routes(handlers: WorkflowFiles) -> list[Route]:
    """The table's part about files of workflows."""
    read, write, tag = "workflows:read", "workflows:write", "workflows"
    base = "/v1/workflows"
    return [
        Route("POST", f"{base}/apply", handlers.apply, "Save workflows from YAML, all or none", tag,
              write, body=FilesAsked, answers={200: list[Applied]}, body_bytes_max=BODY_MAX),
        Route("POST", f"{base}/parse", handlers.parse, "YAML as workflow bodies, checked", tag,
              read, body=File, answers={200: list[WorkflowWrite]}, body_bytes_max=BODY_MAX),
        Route("POST", f"{base}/validate", handlers.validate,
              "Whether a workflow could be saved as it is; nothing is", tag, read,
              body=WorkflowWrite, answers={200: Validated}, body_bytes_max=BODY_MAX,
              query=(Query("workflowId", str, "The one that would get a new version"),)),
        Route("POST", f"{base}/render", handlers.render, "A workflow body as YAML", tag, read,
              body=WorkflowWrite, answers={200: YamlView}, body_bytes_max=BODY_MAX),
        Route("GET", base + "/{id}/export", handlers.export, "A workflow as a YAML file", tag,
              read, answers={200: YamlText}, query=(Query("version", int, "A past version"),)),
    ]
