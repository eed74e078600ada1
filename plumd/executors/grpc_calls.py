"""Unary calls of any gRPC method with JSON: what its messages are the server says itself.

A server that has the reflection service gives the descriptors of its methods; with them JSON
becomes a message and a message JSON, by protobuf's own rules. They are asked for once an address,
and again after a while, for a server may be replaced by a newer one.

Source: grpc/doc/server-reflection.md, grpc/reflection/v1/reflection.proto; protobuf.dev,
"ProtoJSON".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from plumd.executors.grpc_client import GrpcClient
from plumd.stream.grpc_frames import GrpcError, Status

REFLECTION: Final = ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                     "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
BY_FILE, BY_SYMBOL = 3, 4
FILES, ERROR = 4, 7
FILES_MAX: Final = 1_000
KEPT_S: Final = 300.0
KEPT_MAX: Final = 1_000


class NoSuchCall(Exception):
    """The call cannot be made, and never will be: the text says why. code: of the task's error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GrpcCalls:
    """Calls by method name."""

    def __init__(self, client: GrpcClient) -> None:
        self.client = client
        self._known: dict[tuple[str, str], tuple[float, MethodDescriptor]] = {}

    async def call(self, url: str, path: str, payload: bytes, timeout_ms: int) -> bytes:
        """The answer as JSON. url: grpc://host:port.  path: /package.Service/Method.

        Raises: NoSuchCall, CallFailed, GrpcError.  Cancel: anywhere.
        """
        method = await self.method(url, path)
        request = message_factory.GetMessageClass(method.input_type)()
        try:
            if payload not in (b"null", b""):
                json_format.Parse(payload, request)
        except json_format.ParseError as error:
            raise NoSuchCall("invalid_payload", f"the payload is no {method.input_type.full_name}: "
                             f"{error}") from None
        data = await self.client.call(url, path, request.SerializeToString(), timeout_ms)
        answer = message_factory.GetMessageClass(method.output_type)()
        try:
            answer.ParseFromString(data)
        except DecodeError:
            raise NoSuchCall("bad_answer", "the answer is no "
                             f"{method.output_type.full_name}") from None
        return json_format.MessageToJson(answer, indent=None).encode()

    async def method(self, url: str, path: str) -> MethodDescriptor:
        """What a method takes and answers. Raises: as `call`."""
        key, now = (url, path), trio.current_time()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            return known[1]
        service, _, name = path.removeprefix("/").partition("/")
        if not service or not name or "/" in name:
            raise NoSuchCall("bad_method", f"{path!r} is not written /package.Service/Method")
        pool = DescriptorPool()
        await self._fill(pool, url, service)
        try:
            method = pool.FindServiceByName(service).FindMethodByName(name)
        except KeyError:
            raise NoSuchCall("bad_method", f"the server has no method {path}") from None
        if method.client_streaming or method.server_streaming:
            raise NoSuchCall("bad_method", f"{path} is a stream; only unary methods are called")
        if len(self._known) >= KEPT_MAX:
            del self._known[next(iter(self._known))]
        self._known[key] = now + KEPT_S, method
        return method

    async def _fill(self, pool: DescriptorPool, url: str, service: str) -> None:
        """All files that a service's descriptor needs, those first that others stand on."""
        files: dict[str, FileDescriptorProto] = {}
        wanted = [(BY_SYMBOL, service)]
        while wanted:
            kind, name = wanted.pop()
            if kind == BY_FILE and name in files:
                continue
            for data in await self._ask(url, kind, name):
                file = FileDescriptorProto.FromString(data)
                if file.name not in files:
                    files[file.name] = file
                    wanted += [(BY_FILE, needed) for needed in file.dependency]
            if len(files) > FILES_MAX:
                raise NoSuchCall("no_reflection", f"its descriptors are over {FILES_MAX} files")
        added: set[str] = set()
        for name in files:
            add(pool, files, name, added)

    async def _ask(self, url: str, kind: int, name: str) -> list[bytes]:
        """One question to the reflection service, of whichever version it has."""
        question = field(kind, name.encode())
        for path in REFLECTION:
            try:
                answer = await self.client.call(url, path, question, 0)
            except GrpcError as error:
                if error.status is Status.UNIMPLEMENTED:
                    continue
                raise
            found = dict(fields(answer))
            if ERROR in found:
                raise NoSuchCall("bad_method", f"the server knows no {name!r}")
            return [data for number, data in fields(found.get(FILES, b"")) if number == 1]
        raise NoSuchCall("no_reflection", "the server has no reflection service "
                         "(grpc.reflection.v1), so nobody knows what its messages are")


def add(pool: DescriptorPool, files: dict[str, FileDescriptorProto], name: str,
        added: set[str]) -> None:
    """Add a file after those that it stands on. Raises: NoSuchCall."""
    if name in added or name not in files:
        return
    added.add(name)
    for needed in files[name].dependency:
        add(pool, files, needed, added)
    try:
        pool.Add(files[name])
    except TypeError as error:
        raise NoSuchCall("no_reflection", f"its descriptors do not fit together: {error}") from None


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number as messages carry it."""
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the length-delimited fields of a message; others are passed over.

    Ends early where the bytes are no message.
    """
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            _, at = read_varint(data, at)
        elif tag & 7 == 2:
            size, at = read_varint(data, at)
            yield tag >> 3, data[at:at + size]
            at += size
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            return


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(the number, where it ends)."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            break
    return value, at
