"""The error tree: one class a code. Codes and statuses are part of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

CODES: dict[str, type[PlumError]] = {}


class PlumError(Exception):
    """Something a caller is told about, as problem+json with this code and HTTP status."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init_subclass__(cls) -> None:
        assert cls.code not in CODES, f"error code {cls.code!r} is used twice"
        CODES[cls.code] = cls

    def __init__(self, detail: str, *, field: str | None = None,
                 retry_after_s: float | None = None,
                 more: Mapping[str, object] | None = None) -> None:
        """more: further members of the problem document."""
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.more = more or {}


def reason(code: str, **values: str | float) -> dict[str, object]:
    """The member of a problem document that tells programs why: a code, and what its sentence
    names."""
    return {"reason": {"code": code, "values": values}}


class Malformed(PlumError):
    """The bytes are not what the route reads (not JSON, truncated, not UTF-8)."""

    code, status = "malformed", 400


class TooSlow(PlumError):
    """The request's body did not arrive in time; send it again."""

    code, status = "timeout", 408


class Invalid(PlumError):
    """A field has a wrong type or value; `field` names it as a path, like `steps[2].name`."""

    code, status = "invalid", 422


class NotFound(PlumError):
    """No such thing: the id is unknown or was deleted."""

    code, status = "not_found", 404


class MethodNotAllowed(PlumError):
    """The path exists, the method does not."""

    code, status = "method_not_allowed", 405


class WrongState(PlumError):
    """The thing exists, but its state does not allow this."""

    code, status = "wrong_state", 409


class Exists(PlumError):
    """The name is taken."""

    code, status = "exists", 409


class NodeTaken(PlumError):
    """Another machine has this nodeId: its agent's key is not the one that came first."""

    code, status = "node_taken", 409


class StaleAttempt(PlumError):
    """A report of an attempt that is no longer the current one; nothing was changed."""

    code, status = "stale_attempt", 409


class SessionReplaced(PlumError):
    """Another session of the same worker took over; this one must end its work."""

    code, status = "session_replaced", 409


class SessionUnknown(PlumError):
    """The daemon has no such session: it was restarted, or the lease ran out. Register again."""

    code, status = "session_unknown", 409


class VersionMismatch(PlumError):
    """If-Match or If-None-Match asked for another version than the current one."""

    code, status = "version_mismatch", 412


class PreconditionFailed(PlumError):
    """The key is not at the version that was asked for; `current` is what is there, or null."""

    code, status = "precondition_failed", 412


class LeaseHeld(PlumError):
    """Somebody else has the lock or the device: `owner`. Ask again later, or wait for it."""

    code, status = "lease_held", 409


class LeaseLost(PlumError):
    """The token is not, or no more, that of whoever has the lock or the device."""

    code, status = "lease_lost", 409


class TooLarge(PlumError):
    """A body, payload, result or list is over its limit; the message names the limit."""

    code, status = "too_large", 413


class HeadersTooLarge(PlumError):
    """The request's head is over its limit."""

    code, status = "headers_too_large", 431


class UnsupportedMedia(PlumError):
    """This route demands Content-Type: application/json."""

    code, status = "unsupported_media_type", 415


class KeyReused(PlumError):
    """The Idempotency-Key was used with another body."""

    code, status = "idempotency_key_reused", 422


class Forbidden(PlumError):
    """Refused by the rules for Host, Origin, Sec-Fetch-Site or the trusted network."""

    code, status = "forbidden", 403


class BadSignature(PlumError):
    """A webhook came without the signature that its trigger asks for, or with a wrong or old one.
    """

    code, status = "bad_signature", 403


class DeviceRefused(PlumError):
    """The device answered an operation with something else than 200; see deviceStatus, deviceBody.
    """

    code, status = "device_refused", 502


class DeviceUnreachable(PlumError):
    """The device could not be called, or did not answer in time."""

    code, status = "device_unreachable", 502


class DeviceTimeout(PlumError):
    """A device that fetches its operations did not fetch this one, or did not answer it, in time.
    """

    code, status = "device_timeout", 504


class NodeUnreachable(PlumError):
    """The node's agent is not connected, or does not answer."""

    code, status = "node_unreachable", 502


class TooMany(PlumError):
    """A limit on how many (open streams, waiting requests) is reached; try again later."""

    code, status = "too_many", 429


class Overloaded(PlumError):
    """The engine's queue is full or the daemon is shutting down; try again later."""

    code, status = "overloaded", 503


class ValueLost(PlumError):
    """The file of a large value is gone, or is not what it was."""

    code, status = "value_lost", 500


class StorageDown(PlumError):
    """The disk refuses writes; reads go on, writes come back by themselves."""

    code, status = "storage_unavailable", 503


class OutcomeUnknown(PlumError):
    """The commit's outcome could not be read back; look before you try again."""

    code, status = "outcome_unknown", 503
