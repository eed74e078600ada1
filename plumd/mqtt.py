"""MQTT, in both directions: messages start what triggers say, and events become messages.

A broker has one session, which outlives connections. A message is acknowledged after the commit in
which it was taken, so none is lost; one that the broker sends again (its DUP flag says so) under
the same identifier and with the same content goes by the id that it had, so it starts nothing
twice. What MQTT cannot tell apart is a new message that equals the one before it under the same
identifier and was itself sent twice: it counts as the old one. A trigger whose `eventId` names
something in the message does not depend on any of this.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
import trio

from plumd import mapping
from plumd import mqtt_packets as packets
from plumd.engine import Ask, Engine
from plumd.errors import PlumError
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed, Target
from plumd.expressions import Failure, Value
from plumd.flow.data import decoded
from plumd.mapping import Happening, Rules
from plumd.model import id_text
from plumd.mqtt_packets import Broken, Connack, Puback, Publish, Suback
from plumd.store import brokers, triggers
from plumd.store.brokers import BrokerRow
from plumd.store.store import Tx
from plumd.store.triggers import EventState, TriggerRow
from plumd.triggers import Occurrence

log = logging.getLogger("plumd.mqtt")
KEEPALIVE_S: Final = 30
ANSWER_S: Final = 10.0
BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
AGAIN_S: Final = 1.0
IN_FLIGHT_MAX: Final = 1_000
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Listener(msgspec.Struct, frozen=True):
    """A trigger that takes messages."""

    row: TriggerRow
    rules: Rules


class Flight:
    """A message of ours on its way."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.taken = False


class Problem(NamedTuple):
    """Why a broker is away, or not as it should be: for programs and for people. "": it is well."""

    code: str = ""
    text: str = ""


NOT_SUBSCRIBED: Final = Problem("not_subscribed", "the broker refuses a subscription")
QOS_LOW: Final = Problem(
    "qos_low", "the broker subscribes with QoS 0 alone, so messages can be lost")


class Session:
    """One broker, connection after connection."""

    def __init__(self, room: Brokers, row: BrokerRow, listeners: Sequence[Listener],
                 before: Session | None = None) -> None:
        """before: the session at the broker that this one goes on with."""
        self.room = room
        self.row = row
        self.listeners = listeners
        self.left: frozenset[str] = frozenset()
        """What is subscribed to there, and no longer wanted."""
        if before is not None:
            self.left = (before.left | set(before.filters)) - set(self.filters)
        self.state = "connecting"       # until the first dial has ended
        self.problem = Problem()
        self.scope = trio.CancelScope()
        self.up = trio.Event()
        self.stream: Stream | None = None
        self._sending = trio.Lock()
        self._waiting: dict[int, Flight] = {}
        self._pid = 0
        self._heard = 0.0
        self._places = trio.CapacityLimiter(IN_FLIGHT_MAX)

    @property
    def filters(self) -> tuple[str, ...]:
        """What is subscribed to."""
        return tuple(sorted({one.row.body.topic for one in self.listeners}))

    async def run(self) -> None:
        """Dial again and again, until canceled."""
        failures = 0
        with self.scope:
            while True:
                begun = trio.current_time()
                try:
                    await self._connection()
                except (CallFailed, Broken, OSError, trio.BrokenResourceError,
                        trio.ClosedResourceError, trio.TooSlowError, ExceptionGroup) as error:
                    self.problem = problem_of(error)
                self.state = "away"
                failures = 0 if trio.current_time() - begun > 2 * KEEPALIVE_S else failures + 1
                if failures == 1:
                    log.warning("a broker is away", extra={
                        "broker": self.row.name, "reason": self.problem.text})
                await trio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])

    async def _connection(self) -> None:
        """One connection, from the dial to its end; always ends by an exception."""
        stream = self.stream = await self._dial()
        try:
            reader = packets.Reader()
            body = self.row.body
            await self.send(packets.connect(body.client_id, KEEPALIVE_S, body.user,
                                            self.row.password))
            with trio.fail_after(ANSWER_S):
                early = await self._welcomed(stream, reader)
            if self.left:
                await self.send(packets.unsubscribe(self.next_pid(), tuple(sorted(self.left))))
                self.left = frozenset()
            if self.filters:
                await self.send(packets.subscribe(self.next_pid(), self.filters))
            self.state, self.problem = "connected", Problem()
            self._heard = trio.current_time()
            self.up.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat, nursery.cancel_scope)
                await self._take(early)
                while data := await stream.receive_some(65_536):
                    self._heard = trio.current_time()
                    await self._take(reader.feed(bytes(data)))
                raise CallFailed("connection_lost", "the broker closed the connection")
        finally:
            if self.up.is_set():        # else there are those who wait for it
                self.up = trio.Event()
            self.state, self.stream = "away", None
            waiting, self._waiting = self._waiting, {}
            for flight in waiting.values():
                flight.over.set()
            await trio.aclose_forcefully(stream)

    async def _dial(self) -> Stream:
        scheme, _, rest = self.row.body.url.partition("://")
        host, port = split(rest, 8883 if scheme == "mqtts" else 1883)
        plain = await self.room.client.open(Target("http", host, port, "/"))
        if scheme == "mqtt":
            return plain
        secured = trio.SSLStream(plain, ssl.create_default_context(), server_hostname=host)
        try:
            with trio.fail_after(ANSWER_S):
                await secured.do_handshake()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(plain)
            raise
        return secured

    async def _welcomed(self, stream: Stream,
                        reader: packets.Reader) -> Sequence[packets.Packet]:
        """Wait for CONNACK; what came with it. Raises: CallFailed."""
        while True:
            data = await stream.receive_some(65_536)
            if not data:
                raise CallFailed("unreachable", "the broker closed the connection")
            found = reader.feed(bytes(data))
            if not found:
                continue
            first = found[0]
            if not isinstance(first, Connack):
                raise Broken("the first packet is no CONNACK")
            if first.code:
                known = first.code < len(packets.REFUSALS)
                raise CallFailed("refused", packets.REFUSALS[first.code] if known
                                 else f"refused with {first.code}")
            return found[1:]

    async def _beat(self, scope: trio.CancelScope) -> None:
        """Ping; a broker that says nothing is gone."""
        while True:
            await trio.sleep(KEEPALIVE_S / 2)
            if trio.current_time() - self._heard > 1.5 * KEEPALIVE_S:
                self.problem = Problem("no_answer", "the broker does not answer")
                scope.cancel()
                return
            await self.send(packets.PINGREQ)

    async def send(self, data: bytes) -> None:
        """Raises: CallFailed while there is no connection.

        Cancel: the connection ends, for what came next would be read as the rest of this.
        """
        async with self._sending:
            stream, whole = self.stream, False
            if stream is None:
                raise CallFailed("unreachable", f"the broker is away: {self.problem.text}")
            try:
                with trio.fail_after(ANSWER_S):
                    await stream.send_all(data)
                whole = True
            finally:
                if not whole:
                    await trio.aclose_forcefully(stream)

    def next_pid(self) -> int:
        """A packet identifier that is free."""
        while True:
            self._pid = self._pid % 65_535 + 1
            if self._pid not in self._waiting:
                return self._pid

    # ------------------------------------------------------------ out

    async def publish(self, topic: str, payload: bytes) -> None:
        """Returns when the broker has taken it. Raises: CallFailed.

        Cancel: it may have been taken.
        """
        async with self._places:
            await self.up.wait()
            pid = self.next_pid()
            flight = self._waiting[pid] = Flight()
            try:
                await self.send(packets.publish(topic, payload, pid))
                await flight.over.wait()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise CallFailed("connection_lost", "the connection was lost") from None
            finally:
                if self._waiting.get(pid) is flight:
                    del self._waiting[pid]
            if not flight.taken:
                raise CallFailed("connection_lost", "the connection was lost")

    # ------------------------------------------------------------ in

    async def _take(self, found: Sequence[packets.Packet]) -> None:
        messages: list[Publish] = []
        for one in found:
            if isinstance(one, Puback):
                flight = self._waiting.pop(one.pid, None)
                if flight is not None:
                    flight.taken = True
                    flight.over.set()
            elif isinstance(one, Publish):
                messages.append(one)
            elif isinstance(one, Suback) and any(code != 1 for code in one.codes):
                self.problem = NOT_SUBSCRIBED if 128 in one.codes else QOS_LOW
                log.warning("a broker does not subscribe as asked", extra={
                    "broker": self.row.name, "reason": self.problem.text})
        if messages:
            await self._hand_in(messages)

    async def _hand_in(self, messages: Sequence[Publish]) -> None:
        """Everything that messages start in one commit; then they are acknowledged."""
        commands: list[Occurrence] = []
        notes: list[tuple[int, str, str]] = []
        known: dict[int, tuple[str, str]] = {}
        for one in messages:
            listeners = [listener for listener in self.listeners
                         if packets.matches(listener.row.body.topic, one.topic)]
            if one.retain or not listeners:
                continue        # what was true before we asked is no event
            digest = hashlib.blake2b(one.topic.encode() + b"\0" + one.payload,
                                     digest_size=12).hexdigest()
            event_id = id_text(self.room.engine.new_id())
            if one.dup and one.pid:
                before = known.get(one.pid) or self.room.engine.store.peek(
                    brokers.seen, self.row.name, one.pid)
                if before is not None and before[0] == digest:
                    event_id = before[1]
            if one.pid:
                known[one.pid] = (digest, event_id)
                notes.append((one.pid, digest, event_id))
            commands += [self._occurrence(listener, one, event_id) for listener in listeners]
        await self._commit(commands, notes)
        acks = b"".join(packets.puback(one.pid) for one in messages if one.qos == 1)
        if acks:
            await self.send(acks)

    async def _commit(self, commands: Sequence[Occurrence],
                      notes: Sequence[tuple[int, str, str]]) -> None:
        if not commands and not notes:
            return

        def write(tx: Tx) -> None:
            for note in notes:
                brokers.see(tx, self.row.name, *note)

        while True:
            try:
                ask: Ask = await self.room.engine.call_all(commands, write)
                if all(reply.code != "too_many" for reply in ask.replies):
                    return
            except PlumError as error:
                log.warning("messages wait", extra={"reason": error.detail})
            await trio.sleep(AGAIN_S)

    def _occurrence(self, listener: Listener, message: Publish, event_id: str) -> Occurrence:
        engine, rules = self.room.engine, listener.rules
        number = engine.new_id()
        event: dict[str, Value] = {
            "id": event_id, "seq": 0, "topic": "mqtt", "event": "message",
            "at": engine.clock.now().wall_ms, "data": value_of(message.payload),
            "headers": {"topic": message.topic, "qos": message.qos}, "query": {}}
        happening = Happening(event)
        if message.too_large:
            return Occurrence(listener.row.id, event_id, number, state=EventState.FAILED, refused=(
                "too_large", f"a message takes at most {packets.PACKET_BYTES_MAX} bytes"))
        try:
            event_id = event["id"] = mapping.id_of(rules, happening) or event_id
            if not mapping.wanted(rules, happening):
                return Occurrence(listener.row.id, event_id, number, state=EventState.FILTERED)
            return Occurrence(listener.row.id, event_id, number,
                              mapping.payload_of(rules, happening))
        except Failure as failure:
            return Occurrence(listener.row.id, event_id, number, state=EventState.FAILED,
                              refused=("expression_failed", str(failure)))


class Brokers:
    """All sessions. `run` in a nursery of the daemon's; `renew` after a broker or a trigger was
    written."""

    def __init__(self, engine: Engine, client: Client) -> None:
        self.engine = engine
        self.client = client
        self.sessions: dict[str, Session] = {}
        self._renewed = trio.Event()

    def renew(self) -> None:
        """Something was written."""
        self._renewed.set()

    async def run(self) -> None:
        """Until canceled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._renewed = trio.Event()
                self._read(nursery)
                await self._renewed.wait()

    def _read(self, nursery: trio.Nursery) -> None:
        """Sessions whose broker or triggers are others than before begin anew."""
        listeners: dict[str, list[Listener]] = {}
        for shape in self.engine.store.peek(triggers.listening):
            try:
                row = triggers.row_of(shape)
                if row.body.kind == "mqtt" and row.body.enabled:
                    rules = mapping.rules_of(row.body.filter, row.body.payload, row.body.event_id)
                    listeners.setdefault(row.body.broker, []).append(Listener(row, rules))
            except (msgspec.DecodeError, PlumError):
                log.exception("a trigger cannot be read", extra={"trigger_id": id_text(shape[0])})
        known = {one.name: one for one in self.engine.store.peek(brokers.every)}
        before: dict[str, Session] = {}
        for name, session in list(self.sessions.items()):
            same = known.get(name) == session.row and [
                one.row for one in listeners.get(name, [])] == [
                    one.row for one in session.listeners]
            if not same:
                session.scope.cancel()
                before[name] = self.sessions.pop(name)
        for name, broker in known.items():
            if name not in self.sessions:
                session = self.sessions[name] = Session(self, broker, listeners.get(name, []),
                                                        before.get(name))
                nursery.start_soon(session.run)

    async def publish(self, name: str, topic: str, payload: bytes) -> None:
        """Hand a message to a broker. Raises: CallFailed."""
        session = self.sessions.get(name)
        if session is None:
            raise CallFailed("unreachable", f"there is no broker {name!r}")
        await session.publish(topic, payload)


def problem_of(error: BaseException) -> Problem:
    """What went wrong; of several the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, CallFailed):
        return Problem(error.code, error.message)
    if isinstance(error, trio.TooSlowError):
        return Problem("no_answer", "no answer")
    code = "bad_answer" if isinstance(error, Broken) else "connection_lost"
    return Problem(code, str(error) or "the connection was lost")


def value_of(payload: bytes) -> Value:
    """JSON, else text, else base64."""
    with suppress(Failure):
        return decoded(payload)
    with suppress(UnicodeDecodeError):
        return payload.decode()
    return base64.b64encode(payload).decode()


def split(text: str, port: int) -> tuple[str, int]:
    """(host, port) of HOST, HOST:PORT or [V6]:PORT. Raises: CallFailed."""
    host, colon, tail = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, tail = text, str(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not tail.isdigit() or not 0 < int(tail) < 65_536:
        raise CallFailed("bad_url", f"{text!r} is no HOST:PORT")
    return host, int(tail)
