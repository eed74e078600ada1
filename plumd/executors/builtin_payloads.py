"""Pure: what the builtin tasks that reach beyond the core take, checked field by field."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd.errors import Invalid, TooLarge
from plumd.executors.targets import CallFailed, parse
from plumd.kv_checks import check_key, check_lock, check_namespace, check_value
from plumd.values import finite

T = TypeVar("T")
HTTP: Final = "builtin.http"
KV: Final = "builtin.kv"
DEVICE: Final = "builtin.device"
WAIT: Final = "builtin.wait"
OPERATIONS_MAX: Final = 1_000
OWN_HEADERS: Final = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
    "keep-alive", "proxy-connection", "expect", "x-plum-origin"})
"""Headers that say how a request is framed and where it comes from: they are the daemon's own."""

Text = Annotated[str, Meta(max_length=500)]
Ms = Annotated[int, Meta(ge=0, le=1 << 53)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Kind = Literal["string", "int", "double", "bool", "bytes"]
Status = Annotated[int, Meta(ge=100, le=599)]
Op = Literal["==", "!=", "<", "<=", ">", ">="]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$(?!\n)")]
HeaderValue = Annotated[str, Meta(max_length=8_000, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$(?!\n)")]


class HttpCall(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A request. body: a string as it is, any other JSON as JSON.

    expectStatus: what counts as success; left out: 200 to 299.  timeoutSec: for the answer, within
    the attempt's own time.
    """

    url: Annotated[str, Meta(min_length=1, max_length=8_000)]
    method: Method = "GET"
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=64)] = {}
    body: Raw | UnsetType = UNSET
    expect_status: Annotated[list[Status], Meta(max_length=50)] | UnsetType = UNSET
    timeout_sec: Annotated[float, Meta(gt=0, le=86_400)] = 30.0


class KvCall(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One operation on one key.

    value: JSON; its type is that of `type`, else that of the value (a number is int or double).
    cas writes only if the key is at ifVersion, 0 = not there.  increment adds `by` to a number.
    """

    op: Literal["get", "put", "cas", "delete", "increment"]
    namespace: str
    key: str
    value: str | int | float | bool | UnsetType = UNSET
    type: Kind | UnsetType = UNSET
    ttl_sec: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None
    if_version: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | UnsetType = UNSET
    by: int | float = 1
    lock: str | None = None
    token: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)] | None = None


class DeviceOperation(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An operation; a value that is no text is written as one."""

    name: Text
    value: str | int | float | bool = ""


class DeviceCall(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Operations for one device, in this order. token: of a lease on the device."""

    resource_id: Annotated[str, Meta(min_length=1, max_length=200)]
    operations: Annotated[list[DeviceOperation], Meta(min_length=1, max_length=OPERATIONS_MAX)]
    token: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)] | None = None


class KvCondition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A key. Without op and value it is enough that it is there, or with exists false that it is
    not."""

    namespace: str
    key: str
    op: Op = "=="
    value: str | int | float | bool | UnsetType = UNSET
    exists: bool | UnsetType = UNSET


class DeviceCondition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                      kw_only=True):
    """A state of a device."""

    resource_id: Annotated[str, Meta(min_length=1, max_length=200)]
    state: Text
    op: Op = "=="
    value: str | int | float | bool


class WaitCall(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is waited for: exactly one of them. until: Unix ms."""

    kv: KvCondition | UnsetType = UNSET
    device: DeviceCondition | UnsetType = UNSET
    until: Ms | UnsetType = UNSET


Payload: TypeAlias = HttpCall | KvCall | DeviceCall | WaitCall
TYPES: Final[dict[str, type[Payload]]] = {
    HTTP: HttpCall, KV: KvCall, DEVICE: DeviceCall, WAIT: WaitCall}


def read(kind: type[T], payload: bytes | None) -> T:
    """A payload as one of the types. Raises: Invalid, which names the field."""
    try:
        return msgspec.json.decode(payload or b"null", type=kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        named = re.search(r"field `([^`]+)`", text)
        where = "payload" + path.rstrip("`") + (f".{named[1]}" if named else "")
        raise Invalid(text, field=where) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"not JSON: {error}", field="payload") from None


def checked(name: str, payload: bytes | None) -> Payload:
    """A builtin's payload. Raises: Invalid, TooLarge."""
    found = read(TYPES[name], payload)
    if isinstance(found, HttpCall):
        check_http(found)
    elif isinstance(found, KvCall):
        check_kv(found)
    elif isinstance(found, WaitCall):
        check_wait(found)
    return found


def check_http(call: HttpCall) -> None:
    """Raises: Invalid."""
    try:
        parse(call.url)
    except CallFailed as failure:
        raise Invalid(failure.message, field="payload.url") from None
    for name in call.headers:
        if name.lower() in OWN_HEADERS:
            raise Invalid("this header is the daemon's own", field=f"payload.headers.{name}")


def check_kv(call: KvCall) -> None:
    """Raises: Invalid, TooLarge."""
    check_namespace(call.namespace, "payload.namespace")
    check_key(call.key, "payload.key")
    writes = call.op in ("put", "cas")
    if writes and call.value is UNSET:
        raise Invalid("the value is missing", field="payload.value")
    if not writes and call.value is not UNSET:
        raise Invalid(f"{call.op} takes no value", field="payload.value")
    if call.op == "cas" and call.if_version is UNSET:
        raise Invalid("cas asks for a version", field="payload.ifVersion")
    if call.op in ("get", "increment") and call.if_version is not UNSET:
        raise Invalid(f"{call.op} takes no version", field="payload.ifVersion")
    if (call.lock is None) != (call.token is None):
        raise Invalid("a lock and its token go together", field="payload.lock")
    if call.lock is not None:
        check_lock(call.lock, "payload.lock")
    if writes:
        kind, text = stored(call)
        try:
            check_value(text, kind, "payload.value")
        except TooLarge as error:
            raise Invalid(error.detail, field="payload.value") from None


def check_wait(call: WaitCall) -> None:
    """Raises: Invalid."""
    given = [one for one in (call.kv, call.device, call.until) if one is not UNSET]
    if len(given) != 1:
        raise Invalid("one of kv, device and until", field="payload")
    if isinstance(call.kv, KvCondition):
        check_namespace(call.kv.namespace, "payload.kv.namespace")
        check_key(call.kv.key, "payload.kv.key")
        if call.kv.value is not UNSET and call.kv.exists is not UNSET:
            raise Invalid("a value or exists", field="payload.kv.exists")


def text_of(value: str | float | bool) -> str:
    """A JSON value as a text of the store or a device."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def stored(call: KvCall) -> tuple[Kind, str]:
    """(type, text) of what shall be written."""
    assert not isinstance(call.value, UnsetType), "it was checked"
    found: Kind = ("bool" if isinstance(call.value, bool)
                   else "int" if isinstance(call.value, int)
                   else "double" if isinstance(call.value, float) else "string")
    return (found if isinstance(call.type, UnsetType) else call.type), text_of(call.value)


def json_value(kind: str, text: str) -> str | int | float | bool:
    """A value of the store as JSON has it; what JSON has not stays text."""
    if kind == "bool":
        return text.lower() in ("true", "1")
    if kind == "int":
        return int(text)
    number = finite(text) if kind == "double" else None
    return text if number is None else number


def holds(op: Op, have: str, value: str | float | bool) -> bool:
    """Whether a text compares so with a value: as numbers where both are some, else as texts."""
    want = text_of(value)
    left, right = number_of(have), number_of(want)
    if left is None or right is None:
        return {"==": have == want, "!=": have != want, "<": have < want, "<=": have <= want,
                ">": have > want, ">=": have >= want}[op]
    return {"==": left == right, "!=": left != right, "<": left < right, "<=": left <= right,
            ">": left > right, ">=": left >= right}[op]


def number_of(text: str) -> int | float | None:
    """A whole number exactly, another one as a double, None for what is none."""
    if re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        return int(text)
    return finite(text)


def added(kind: str, text: str, by: float) -> tuple[Kind, str]:
    """(type, text) of a number with another one added. Raises: Invalid."""
    if kind not in ("int", "double"):
        raise Invalid(f"the key holds a {kind}, no number", field="payload.key")
    if kind == "int" and isinstance(by, int):
        total = int(text) + by
        if not -(1 << 63) <= total < 1 << 63:
            raise Invalid("the sum is over 64 bits", field="payload.by")
        return "int", str(total)
    number = finite(text)
    if number is None:
        raise Invalid("the key holds no finite number", field="payload.key")
    return "double", repr(number + by)
