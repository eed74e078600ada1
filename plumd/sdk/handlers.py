"""Handlers: the user's functions, how they are called, and what their endings are on the wire."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, Never, SupportsFloat, cast, final

import msgspec
import trio
from msgspec import Raw

from plumd.sdk.protocol import (
    DEPTH_MAX,
    EMPTY,
    LOST,
    VALUE_BYTES_MAX,
    Attempt,
    Failure,
    Progress,
    Result,
    too_deep,
)
from plumd.sdk.signals import unwrapped

log = logging.getLogger("plumd.sdk")

MESSAGE_CHARS_MAX: Final = 8_000
PROGRESS_TEXT_CHARS: Final = 1_000
RETRY_AFTER_S_MAX: Final = 31_536_000.0

_encode = msgspec.json.Encoder().encode


class Mode(Enum):
    """Where a handler runs."""

    INLINE = "inline"   # in the event loop, at once: tiny and never blocking
    THREAD = "thread"
    ASYNC = "async"     # a Trio task


class TaskFailed(Exception):
    """The attempt failed, and the handler knows more about it than an exception's text.

    code: for programs.  retry=False: another try would end the same way.  retry_after_s: wait at
    least so long before the next try.  detail: more facts, anything that JSON can say.
    """

    def __init__(self, message: str, *, code: str = "task_failed", retry: bool = True,
                 retry_after_s: float | None = None, detail: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.detail = detail


class Canceled(Exception):
    """Raised by `context.check_canceled()`: the attempt shall end now."""


@final
class Context:
    """What a handler may know of its attempt, and say while it runs. Usable from any thread.

    id: the attempt's id on the wire.  attempt: which try it is, from 1.  timeout_s: 0 = none.
    canceled: the attempt shall end; reason says why (canceled, timeout, stale or lost).
    """

    __slots__ = ("_log", "_tell", "attempt", "canceled", "id", "last_mark", "name", "reason",
                 "said_bytes", "scope", "timeout_s", "why")

    def __init__(self, attempt: Attempt, tell: Callable[[Progress], None],
                 log_line: Callable[[Context, str], None],
                 scope: trio.CancelScope | None = None) -> None:
        self.id = attempt.id
        self.name = attempt.name
        self.attempt = attempt.attempt
        self.timeout_s = attempt.timeout_sec
        self.canceled = False
        self.reason = ""
        self.why = ""
        self.said_bytes = self.last_mark = 0    # of its log: see LogLines
        self.scope = scope
        self._tell = tell
        self._log = log_line

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id.partition(".")[0]

    def check_canceled(self) -> None:
        """Raises Canceled when the attempt shall end."""
        if self.canceled:
            raise Canceled(self.reason)

    def progress(self, ratio: float | None = None, text: str = "") -> None:
        """Say how far the work is: ratio 0 .. 1 and a short text. The latest counts."""
        if ratio is not None:
            ratio = min(max(float(ratio), 0.0), 1.0)
        self._tell(Progress(self.id, ratio, _clean(text, PROGRESS_TEXT_CHARS)))

    def log(self, text: str) -> None:
        """Add a line to the task's log, which `plum task logs -f` shows as it grows.

        Lines are sent in the order in which they came, before the result, and again after a lost
        line until the daemon has them. Those that wait while it is away are bounded; it is a log to
        look at, not a place for results.
        """
        self._log(self, _clean(text, len(text)))

    def stop(self, reason: str, why: str = "") -> None:
        """Tell the handler to end; the first reason stays. Only from the worker's own thread."""
        if not self.canceled:
            self.reason, self.why = reason, why
            self.canceled = True
            if self.scope is not None:
                self.scope.cancel()

    def ending(self, result: Result | None) -> Result:
        """What is reported after a stop. result: None when the stop is what ended the handler.

        Work that was finished in spite of a lost line is worth reporting: the daemon knows
        whether the attempt is still the current one.
        """
        if self.reason == LOST:
            return result if result is not None and result.error is None else self.lost()
        if result is None:
            return Result(self.id, stopped=True)
        return msgspec.structs.replace(result, stopped=True)

    def lost(self) -> Result:
        """The report of an attempt that this worker gave up."""
        return Result(self.id, error=Failure(LOST, self.why))


Handler = Callable[[Never], object] | Callable[[Never, Context], object]
"""A function of the payload, or of payload and context; the payload's type is the user's affair."""


@final
class Task:
    """One handler under its name. type: what payloads are decoded to (None: plain JSON values)."""

    __slots__ = ("_decode", "_with_context", "_with_payload", "mode", "name", "wants_context")

    def __init__(self, name: str, handler: Handler, *, inline: bool = False,
                 type: object = None) -> None:  # noqa: A002 - the decorator's word
        if not 0 < len(name) <= 200:
            raise ValueError(f"a task's name has 1 to 200 characters, not {len(name)}")
        if name.startswith("!"):
            raise ValueError(f"{name!r}: a task's name does not begin with !")
        self.name = name
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise ValueError(f"task {name!r}: a handler returns its result, a generator yields")
        is_async = inspect.iscoroutinefunction(handler)
        if inline and is_async:
            raise ValueError(f"task {name!r}: an async handler cannot be inline")
        self.mode = Mode.ASYNC if is_async else Mode.INLINE if inline else Mode.THREAD
        self.wants_context = _wants_context(name, handler)
        # One function under both its possible signatures; wants_context says which is true.
        self._with_payload = cast("Callable[[object], object]", handler)
        self._with_context = cast("Callable[[object, Context | None], object]", handler)
        decoder = msgspec.json.Decoder() if type is None else msgspec.json.Decoder(type)
        self._decode: Callable[[Raw | bytes], object] = decoder.decode

    def answer(self, attempt: Attempt, context: Context | None) -> Result | None:
        """Call a plain handler. None: it ended because it was told to. Never raises Exception,
        nor SystemExit."""
        if context is not None and context.canceled:
            return None
        try:
            payload = self._payload(attempt)
            value = (self._with_context(payload, context) if self.wants_context
                     else self._with_payload(payload))
        except (Exception, SystemExit) as error:    # argparse in a handler ends no worker
            return failed(attempt, error, context)
        return _succeeded(attempt.id, value)

    async def answer_async(self, attempt: Attempt, context: Context) -> Result:
        """Call an async handler. Raises whatever it raises. Cancel: as the handler does."""
        payload = self._payload(attempt)
        running = (self._with_context(payload, context) if self.wants_context
                   else self._with_payload(payload))
        return _succeeded(attempt.id, await cast("Awaitable[object]", running))

    def _payload(self, attempt: Attempt) -> object:
        """The decoded payload. Raises TaskFailed."""
        try:
            return self._decode(attempt.payload if len(attempt.payload) else b"null")
        except (ValueError, RecursionError) as error:
            raise TaskFailed(str(error), code="invalid_payload", retry=False) from None


def _wants_context(name: str, handler: Handler) -> bool:
    """Whether the handler takes (payload, context) and not only (payload)."""
    places = 0
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            places += 1
    if not places:
        raise ValueError(f"task {name!r}: the handler must take the payload")
    return places > 1


def failed(attempt: Attempt, error: Exception | SystemExit,
           context: Context | None) -> Result | None:
    """The report of a handler that raised; None when it did so because it was told to end."""
    error = unwrapped(error)
    if isinstance(error, Canceled) and context is not None and context.canceled:
        return None
    if isinstance(error, TaskFailed):
        failure = Failure(_clean(_words(error.code), 200),
                          _clean(_words(error.message), MESSAGE_CHARS_MAX), _detail(error.detail))
        return Result(attempt.id, error=failure, retry=bool(error.retry),
                      retry_after_sec=_pause_s(error.retry_after_s))
    log.error("task %s (attempt %s) failed", attempt.name, attempt.id, exc_info=error)
    name, text = type(error).__name__, _words(error)
    text = name if text == name else f"{name}: {text}"
    return Result(attempt.id, error=Failure("handler_error", _clean(text, MESSAGE_CHARS_MAX)))


def _succeeded(attempt_id: str, value: object) -> Result:
    """The report of a value, or of why the value cannot be reported."""
    if value is None:
        return Result(attempt_id)
    try:
        data = _encode(value)
    except Exception as error:  # encoding calls properties and iterators of the user's objects
        return _unfit(attempt_id, "invalid_result", f"{type(error).__name__}: {error}")
    if len(data) > VALUE_BYTES_MAX:
        return _unfit(attempt_id, "result_too_large",
                      f"the result has {len(data)} bytes, over {VALUE_BYTES_MAX}")
    if too_deep(data):
        return _unfit(attempt_id, "invalid_result", f"nested deeper than {DEPTH_MAX}")
    return Result(attempt_id, Raw(data))


def _unfit(attempt_id: str, code: str, message: str) -> Result:
    failure = Failure(code, _clean(message, MESSAGE_CHARS_MAX))
    return Result(attempt_id, error=failure, retry=False)


def _detail(value: object) -> Raw:
    """The failure's detail, or nothing when it cannot be sent: the failure itself matters more."""
    result = _succeeded("", value)
    if result.error is not None:
        log.warning("a failure's detail was left out: %s", result.error.message)
    return EMPTY if result.error is not None else result.result


def _words(value: object) -> str:
    """What an object of the user's says of itself; its __str__ is the user's code too."""
    try:
        return str(value)
    except Exception:
        return type(value).__name__


def _pause_s(seconds: object) -> float | None:
    """A pause as it is sent; one that is no number is left out."""
    try:
        wait_s = float(seconds) if isinstance(seconds, SupportsFloat | str) else None
    except ValueError:
        return None
    return None if wait_s is None else min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def _clean(text: str, chars_max: int) -> str:
    """The text cut to size and without lone surrogates (file names have them), which JSON lacks."""
    return text[:chars_max].encode("utf-8", "replace").decode()
