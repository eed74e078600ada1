"""/v1/hooks: where webhooks from outside come in.

Whoever calls knows the place and, unless the trigger says otherwise, signs what is sent. What was
taken before is answered as it was the first time.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from plumd import mapping, signing
from plumd.api.context import Context, answer
from plumd.api.decode import strict
from plumd.api.routes import Request, Response, Route
from plumd.errors import CODES, BadSignature, Invalid, Malformed, NotFound
from plumd.expressions import Failure, Value
from plumd.flow.data import DECODE
from plumd.mapping import Happening
from plumd.model import id_text
from plumd.store import triggers
from plumd.store.triggers import STATES, EventState, TriggerRow
from plumd.triggers import KNOWN, Occurrence

SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization",
                                   "webhook-signature", "x-hub-signature",
                                   "x-hub-signature-256"})
ID_HEADERS: Final = ("webhook-id", "x-github-delivery", "idempotency-key")


class HookView(msgspec.Struct, frozen=True, rename="camel"):
    """What became of an event. duplicate: it was taken before, and this is what came of it."""

    event_id: str
    state: str
    duplicate: bool
    run_id: str | None = None
    task_id: str | None = None
    detail: str | None = None


class Hooks:
    """The handler."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine = context.engine

    async def take(self, request: Request) -> Response:
        """An event from outside."""
        row = self.context.store.peek(triggers.by_key, request.params["key"])
        if row is None or not row.body.enabled:
            raise NotFound("there is no webhook here, or it is paused")
        strict(request.body, Raw)       # its encoding and its depth
        try:
            data = DECODE(request.body)
        except msgspec.DecodeError as error:
            raise Malformed(f"the body is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise Invalid("the body is a JSON object")
        now_ms = self.engine.clock.now().wall_ms
        if why := signing.wrong(row.body.signature, row.secret, request.headers, request.body,
                                now_ms // 1000):
            raise BadSignature(why)
        command = self.occurrence(row, request, data, now_ms)
        reply = await self.engine.call(command)
        if reply.code:
            raise CODES[reply.code](reply.detail, retry_after_s=1)
        item = id_text(reply.value) if reply.value else None
        of_run = bool(row.body.workflow_id)
        return answer(202, HookView(
            command.event_id, STATES[reply.state % KNOWN], reply.state >= KNOWN,
            item if of_run else None, None if of_run else item, reply.detail or None))

    def occurrence(self, row: TriggerRow, request: Request, data: Value,
                   now_ms: int) -> Occurrence:
        """What the request means to the trigger."""
        body, number = row.body, self.engine.new_id()
        rules = mapping.rules_of(body.filter, body.payload, body.event_id)
        headers: dict[str, Value] = {name: value for name, value in request.headers.items()
                                     if name not in SECRET_HEADERS}
        query: dict[str, Value] = dict(request.query)
        ident = mapping.short_id(next(
            (request.headers[name] for name in ID_HEADERS if request.headers.get(name)),
            id_text(number)))
        event: dict[str, Value] = {
            "id": ident, "seq": 0, "topic": "webhook", "event": "webhook", "at": now_ms,
            "data": data, "headers": headers, "query": query}
        happening = Happening(event)
        try:
            ident = event["id"] = mapping.id_of(rules, happening) or ident
        except Failure as failure:
            return Occurrence(row.id, ident, number, state=EventState.FAILED,
                              refused=("expression_failed", f"eventId: {failure}"))
        if not mapping.wanted(rules, happening):
            return Occurrence(row.id, ident, number, state=EventState.FILTERED)
        try:
            payload = mapping.payload_of(rules, happening)
        except Failure as failure:
            return Occurrence(row.id, ident, number, state=EventState.FAILED,
                              refused=("expression_failed", str(failure)))
        return Occurrence(row.id, ident, number, payload)


def routes(handlers: Hooks) -> list[Route]:
    """The table's part about webhooks that come in."""
    return [Route("POST", "/v1/hooks/{key}", handlers.take, "Take an event from outside",
                  "triggers", "triggers:fire", body=Raw, answers={202: HookView}, lenient=True,
                  trusted=True)]
