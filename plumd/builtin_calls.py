"""The builtin tasks that reach out: builtin.http, builtin.kv and builtin.device.

What builtin.kv did is remembered with its answer in the commit that does it, under the attempt's
id; so an attempt that is carried out again after a crash answers the same, and does nothing again.
"""

from __future__ import annotations

import json
from typing import ClassVar, Final

import msgspec
import trio

from plumd.errors import (
    DeviceRefused,
    DeviceTimeout,
    DeviceUnreachable,
    Invalid,
    LeaseHeld,
    LeaseLost,
    NotFound,
    PlumError,
    PreconditionFailed,
    TooLarge,
)
from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.answers import (
    CallDetail,
    attempt_headers,
    failed,
    lost_with_daemon,
    outcome_of,
    result_of,
    status_detail,
    unanswered,
    unless_stopped,
)
from plumd.executors.builtin import ECHO, builtin_of, echo_of
from plumd.executors.builtin_payloads import (
    DeviceCall,
    HttpCall,
    KvCall,
    added,
    checked,
    json_value,
    stored,
    text_of,
)
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed, parse
from plumd.expiry import Expiry
from plumd.kv_checks import ttl_ms
from plumd.model import VALUE_BYTES_MAX, Ending, TaskError, attempt_text
from plumd.operations import Operation, Operations
from plumd.store import keys, kv, leases
from plumd.store.keys import Answer
from plumd.store.store import Tx, Write

ENCODE: Final = msgspec.json.Encoder().encode
REPEATABLE: Final = ("GET", "HEAD", "PUT", "DELETE")
WORTH_RETRYING: Final = (408, 425, 429)


class HttpResult(msgspec.Struct, frozen=True):
    """What builtin.http answers. body: JSON if it is some, else a string."""

    status: int
    headers: dict[str, str]
    body: msgspec.Raw


class KvResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What builtin.kv answers. found: whether the key is there now."""

    found: bool
    key: str
    version: int = 0
    type: str | msgspec.UnsetType = msgspec.UNSET
    value: str | int | float | bool | msgspec.UnsetType = msgspec.UNSET


class DeviceResult(msgspec.Struct, frozen=True, rename="camel"):
    """What builtin.device answers. answer: the device's, JSON if it is some, else a string."""

    resource_id: str
    answer: msgspec.Raw


class BuiltinCalls:
    """The executor of these three, and of large echoes.

    hosts: the only ones that builtin.http calls, empty = any.
    """

    name: ClassVar[str] = "builtin"

    def __init__(self, client: Client, write: Write, expiry: Expiry, operations: Operations,
                 hosts: tuple[str, ...] = ()) -> None:
        self.client = client
        self.operations = operations
        self.expiry = expiry
        self.hosts = tuple(host.lower() for host in hosts)
        self._write = write

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Carry it out; see Executor.run.

        Cancel: a call is given up, a write is carried out all the same.
        """
        means = builtin_of(attempt.name, attempt.target_kind, attempt.target_ref)
        if means == ECHO:
            return Outcome(Ending.SUCCEEDED, echo_of(attempt.payload))
        try:
            call = checked(means, attempt.payload)
        except (Invalid, TooLarge) as refusal:
            where = f"{refusal.field}: " if refusal.field else ""
            return failed("invalid_payload", where + refusal.detail, retryable=False)
        if isinstance(call, KvCall):
            return await self._keep(call, attempt)
        if isinstance(call, HttpCall):
            if attempt.resumed and call.method not in REPEATABLE:
                return lost_with_daemon()
            return await unless_stopped(stop, lambda: self._ask(call, attempt),
                                        lambda: CallDetail(call.url))
        assert isinstance(call, DeviceCall), "builtin.wait is carried out by waits.py"
        if attempt.resumed:
            return lost_with_daemon()
        return await unless_stopped(stop, lambda: self._operate(call),
                                    lambda: CallDetail(f"device {call.resource_id}"))

    # ------------------------------------------------------------ builtin.http

    async def _ask(self, call: HttpCall, attempt: Attempt) -> Outcome:
        detail = CallDetail(call.url)
        host = parse(call.url).host.lower()
        if self.hosts and not any(host == one or (one.startswith(".") and host.endswith(one))
                                  for one in self.hosts):
            return failed("refused_host", f"{host} is none of builtin_http_hosts", detail,
                          retryable=False)
        body, kind = b"", tuple[tuple[str, str], ...]()
        if isinstance(call.body, msgspec.Raw):
            body = bytes(call.body)
            if body[:1] == b'"':
                body = json.loads(body).encode("utf-8", "replace")
            elif "content-type" not in {name.lower() for name in call.headers}:
                kind = (("content-type", "application/json"),)
        headers = (*attempt_headers(attempt).items(), *kind, *call.headers.items())
        try:
            with trio.fail_after(call.timeout_sec):
                answer = await self.client.request(call.method, call.url, body, headers)
        except trio.TooSlowError:
            words = f"no answer within timeoutSec, {call.timeout_sec:g} s"
            if call.method in REPEATABLE:
                return failed("try_timeout", words, detail)
            return Outcome(Ending.LOST, error=TaskError(
                "try_timeout", words, detail=msgspec.Raw(ENCODE(detail))))
        except CallFailed as failure:
            return unanswered(failure, call.url, detail)
        status = answer.status
        fine = (status in call.expect_status if isinstance(call.expect_status, list)
                else 200 <= status < 300)
        if not fine:
            return outcome_of(
                msgspec.structs.replace(answer, status=status if status >= 300 else 599,
                                        reason=answer.reason or "Unexpected"),
                f"{call.url} (status {status})", status_detail(call.url, answer),
                retryable=not 400 <= status < 500 or status in WORTH_RETRYING)
        result = ENCODE(HttpResult(status, dict(answer.headers),
                                   msgspec.Raw(result_of(answer.body))))
        if len(result) > VALUE_BYTES_MAX:
            return failed("answer_too_large", f"the answer is larger than {VALUE_BYTES_MAX} bytes "
                          "as JSON", detail, retryable=False)
        return Outcome(Ending.SUCCEEDED, result)

    # ------------------------------------------------------------ builtin.kv

    async def _keep(self, call: KvCall, attempt: Attempt) -> Outcome:
        note = f"{attempt_text(attempt.task_id, attempt.number)} builtin.kv"

        def carry_out(tx: Tx) -> bytes:
            known = keys.get(tx.db, note)
            if known is not None:
                return known.body
            result = ENCODE(kv_result(tx, call))
            if call.op != "get":
                keys.insert(tx.db, note, Answer(b"", 200, result, ""), tx.now_ms)
            return result

        try:
            result = await self._write(carry_out)
        except (PreconditionFailed, LeaseLost, Invalid, TooLarge) as refusal:
            return failed(refusal.code, refusal.detail, retryable=False)
        except PlumError as trouble:
            return failed(trouble.code, trouble.detail)
        self.expiry.note(ttl_ms(call.ttl_sec))
        return Outcome(Ending.SUCCEEDED, result)

    # ------------------------------------------------------------ builtin.device

    async def _operate(self, call: DeviceCall) -> Outcome:
        operations = [Operation(one.name, text_of(one.value)) for one in call.operations]
        try:
            answer = await self.operations.operate(call.resource_id, operations, call.token)
        except (DeviceUnreachable, DeviceTimeout) as trouble:
            return Outcome(Ending.LOST, error=TaskError(trouble.code, trouble.detail))
        except PlumError as refusal:
            final = isinstance(refusal, NotFound | Invalid | DeviceRefused | LeaseHeld | LeaseLost)
            return failed(refusal.code, refusal.detail, retryable=not final)
        return Outcome(Ending.SUCCEEDED, ENCODE(DeviceResult(
            call.resource_id, msgspec.Raw(result_of(answer.encode())))))


def kv_result(tx: Tx, call: KvCall) -> KvResult:
    """Carry an operation on a key out, as part of a commit.

    Raises: PreconditionFailed, LeaseLost, Invalid.
    """
    if call.lock is not None and call.token is not None:
        leases.check(tx, (leases.LOCK, call.namespace, call.lock), call.token)
    if call.op == "get":
        return seen(tx, call)
    condition = None if isinstance(call.if_version, msgspec.UnsetType) else call.if_version
    ttl = ttl_ms(call.ttl_sec)
    if call.op == "delete":
        [version] = kv.write(tx, call.namespace, [kv.Write(
            call.key, None, if_version=condition, field="ifVersion")])
        return KvResult(False, call.key, version)
    if call.op == "increment":
        old = kv.get(tx.db, call.namespace, call.key, tx.now_ms)
        kind, text = added(*(("int", "0") if old is None else (old.type, old.value)), call.by)
    else:
        kind, text = stored(call)
    kv.write(tx, call.namespace, [kv.Write(call.key, text, kind, ttl, condition, "ifVersion")])
    return seen(tx, call)


def seen(tx: Tx, call: KvCall) -> KvResult:
    """A key as it is."""
    entry = kv.get(tx.db, call.namespace, call.key, tx.now_ms)
    if entry is None:
        return KvResult(False, call.key)
    return KvResult(True, call.key, entry.version, entry.type, json_value(entry.type, entry.value))
