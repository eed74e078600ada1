"""Both ends of the worker protocol, as a pair and against everything that is not one."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from plumd.sdk import protocol as p
from plumd.sdk.ends import DaemonEnd, WorkerEnd
from plumd.sdk.protocol import (
    Attempt,
    CancelNotice,
    Down,
    Failure,
    LocalProtocolError,
    LogLine,
    PeerError,
    Progress,
    Refused,
    Register,
    Registered,
    RemoteProtocolError,
    Result,
    Up,
)

REGISTER = Up(register=Register("s1", ["resize"]), holding=[])
WELCOME = Down(registered=Registered(30.0, 10.0))
ONE = Result("00000000000001a")


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def ends() -> tuple[WorkerEnd, DaemonEnd]:
    """A pair that has got to know each other."""
    worker, daemon = WorkerEnd(), DaemonEnd()
    daemon.receive(worker.send(REGISTER))
    worker.receive(daemon.send(WELCOME))
    return worker, daemon


def plain(message: Up | Down) -> object:
    """The message as plain JSON values, for comparing."""
    return json.loads(msgspec.json.encode(message))


# --- what one end says, the other understands ----------------------------------------------------

texts = st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace").decode())
words = texts.filter(bool)
ids = st.builds(lambda task, n: f"{task:015x}" + (f".{n}" if n > 1 else ""),
                st.integers(0, 2**60 - 1), st.integers(1, 999_999_999))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**60, 2**60) | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5).map(raw)
maybe_value = st.just(p.EMPTY) | values
seconds = st.floats(0, 1e6)
failures = st.builds(Failure, words, texts, maybe_value)
results = st.builds(Result, ids, values, stopped=st.booleans()) | st.builds(
    Result, ids, error=failures, retry=st.booleans(), retry_after_sec=st.none() | seconds)
progress = st.builds(Progress, ids, st.none() | st.floats(0, 1), texts)
registers = st.builds(Register, words, st.lists(words, max_size=3), texts, texts, texts, texts,
                      st.dictionaries(words, texts, max_size=3), st.integers(1, 100_000),
                      st.floats(0.05, 3600))
attempts = st.builds(Attempt, ids, words, maybe_value, seconds, st.integers(1, 2**40))
refused = st.builds(Refused, ids, words, st.integers(0, 2**40))
notices = st.builds(CancelNotice, ids, words)


@settings(max_examples=200)
@given(registers, st.lists(ids, max_size=3), st.lists(results, max_size=4),
       st.lists(progress, max_size=3), st.booleans(), st.booleans(), st.booleans(),
       st.lists(attempts, max_size=4), st.lists(refused, max_size=3), st.lists(notices, max_size=3),
       st.booleans(), st.booleans())
def test_what_one_end_says_the_other_understands(
    register: Register, holding: list[str], batch: list[Result], told: list[Progress], beat: bool,
    drain: bool, bye: bool, given_out: list[Attempt], turned_down: list[Refused],
    cancel: list[CancelNotice], full: bool, text: bool,
) -> None:
    worker, daemon = WorkerEnd(), DaemonEnd()

    def over(data: bytes) -> str | bytes:
        return data.decode() if text else data

    up = Up(register=register, holding=holding, seq=1 if batch else 0, results=batch, drain=drain)
    assert plain(daemon.receive(over(worker.send(up)))) == plain(up)
    down = Down(registered=Registered(30.0, 10.0, 100, 70_000_000), attempts=given_out,
                ack=1 if batch and full else 0)
    assert plain(worker.receive(over(daemon.send(down)))) == plain(down)
    up = Up(seq=7 if batch else 0, results=batch, progress=told, beat=beat, bye=bye,
            logs=[LogLine(one.id, one.text, at=at) for at, one in enumerate(told)],
            log_seq=9 if told else 0, tasks=register.tasks)
    assert plain(daemon.receive(over(worker.send(up)))) == plain(up)
    down = Down(ack=7 if batch else 0, refused=turned_down, attempts=given_out, cancel=cancel,
                drain=full, log_ack=9 if told else 0)
    assert plain(worker.receive(over(daemon.send(down)))) == plain(down)
    down = Down(error=PeerError("overloaded", "later"))
    assert plain(worker.receive(over(daemon.send(down)))) == plain(down)


def test_an_exchange_is_one_message_each_way() -> None:
    worker, daemon = WorkerEnd(exchange=True), DaemonEnd(exchange=True)
    up = Up(register=Register("s1", ["resize"]), session="s1", holding=["1f"], wait_sec=20, max=4,
            seq=3, results=[Result("1f", raw([1]))])
    assert plain(daemon.receive(worker.send(up))) == plain(up)
    down = Down(registered=Registered(30.0, 10.0), ack=3, attempts=[Attempt("2", "resize")])
    assert plain(worker.receive(daemon.send(down))) == plain(down)
    with pytest.raises(LocalProtocolError):
        worker.send(up)
    with pytest.raises(LocalProtocolError):
        daemon.send(Down())
    with pytest.raises(RemoteProtocolError):
        daemon.receive(msgspec.json.encode(up))

    # The next request belongs to the same session and registers no more.
    worker, daemon = WorkerEnd(exchange=True), DaemonEnd(exchange=True)
    daemon.receive(worker.send(Up(session="s1", holding=[], max=4)))
    assert worker.receive(daemon.send(Down(ack=0))).attempts == []


@pytest.mark.parametrize("up", [
    {"session": "s1"}, {"holding": []}, {"session": "", "holding": []},
    {"session": "s2", "holding": [], "register": {"session": "s1", "tasks": []}},
    {"session": "s1", "holding": [], "tasks": [], "register": {"session": "s1", "tasks": []}}])
def test_an_exchange_names_session_and_holding(up: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        DaemonEnd(exchange=True).receive(json.dumps(up))


def test_messages_are_short_on_the_wire() -> None:
    worker, daemon = ends()
    assert worker.send(Up(seq=1, results=[ONE])) == \
        b'{"seq":1,"results":[{"id":"00000000000001a"}]}'
    assert daemon.send(Down(attempts=[Attempt("1", "x", raw({"a": 1}), 300.0)])) == \
        b'{"attempts":[{"id":"1","name":"x","payload":{"a":1},"timeoutSec":300.0}]}'
    assert worker.send(Up(beat=True)) == b'{"beat":true}'


def test_keys_of_later_versions_are_ignored() -> None:
    worker, daemon = ends()
    up = daemon.receive(b'{"beat":true,"zeal":{"a":[1]},"results":[{"id":"1","zest":1}],"seq":1}')
    assert [result.id for result in up.results] == ["1"]
    assert worker.receive(b'{"attempts":[{"id":"1","name":"x","zeal":[]}],"zest":0}').attempts


def test_values_pass_untouched() -> None:
    _, daemon = ends()
    text = '{ "b":1.50, "a" : "\\u00e9\u4e2d", "a":1e3 }'
    up = daemon.receive(f'{{"seq":1,"results":[{{"id":"1","result":{text}}}]}}'.encode())
    assert bytes(up.results[0].result).decode() == text


# --- order and bounds ----------------------------------------------------------------------------

@pytest.mark.parametrize("data", [
    '{"register":{"session":"s","tasks":[]},"holding":[]}',          # again
    '{"results":[{"id":"1"}]}',                                      # no number
    '{"seq":1}',                                                     # no results
    '{"seq":-1,"results":[{"id":"1"}]}',
    '{"seq":1,"results":[{"id":""}]}',
    '{"seq":1,"results":[{"id":"xyz"}]}',
    '{"seq":1,"results":[{"id":"1."}]}',
    '{"seq":1,"results":[{"id":"1.0"}]}',
    '{"seq":1,"results":[{"id":"1\\n"}]}',
    '{"seq":1,"results":[{"id":"11111111111111111"}]}',
    '{"seq":1,"results":[{"id":"1","retryAfterSec":-1}]}',
    '{"seq":1,"results":[{"id":"1","retryAfterSec":1e999}]}',
    '{"seq":1,"results":[{"result":1}]}',
    '{"seq":1,"results":[{"id":"1","error":{"message":"' + "x" * 65_537 + '"}}]}',
    '{"seq":1,"results":null}',
    '{"progress":[{"id":"zz"}]}',
    '{"progress":[{"id":"1","ratio":1.5}]}',
    '{"progress":[{"id":"1","text":"' + "x" * 4_097 + '"}]}',
    '{"holding":["-"]}',
    '{"beat":1}',
    '{"seq":1,"results":[' + '{"id":"1"},' * 10_000 + '{"id":"1"}]}',
    "[]", "null", "7", "", "{", '{"beat":true} x', '{"beat":true,}',
])
def test_a_wrong_worker_is_refused(data: str) -> None:
    _, daemon = ends()
    for end in (daemon, ends()[1]):
        with pytest.raises(RemoteProtocolError):
            end.receive(data if end is daemon else data.encode())


@pytest.mark.parametrize("data", [
    '{"beat":true}',
    '{"register":{"session":"s","tasks":[]}}',                       # holding is missing
    '{"register":{"session":"","tasks":[]},"holding":[]}',
    '{"register":{"tasks":[]},"holding":[]}',
    '{"register":{"session":"s","tasks":[],"capacity":0},"holding":[]}',
    '{"register":{"session":"s","tasks":[],"capacity":100001},"holding":[]}',
    '{"register":{"session":"s","tasks":[],"beatSec":0},"holding":[]}',
    '{"register":{"session":"s","tasks":[""]},"holding":[]}',
    '{"register":{"session":"s","tasks":[],"labels":{"a":1}},"holding":[]}',
    '{"register":{"session":"s","tasks":[]},"holding":[],"session":"t"}',
])
def test_the_first_message_registers(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        DaemonEnd().receive(data)


def test_another_version_is_told_so() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        DaemonEnd().receive('{"register":{"session":"s","tasks":[],"version":2},"holding":[]}')
    assert caught.value.code == "unsupported_version"


def test_batch_numbers_only_rise() -> None:
    worker, daemon = ends()
    daemon.receive(worker.send(Up(seq=5, results=[ONE])))
    with pytest.raises(LocalProtocolError):
        worker.send(Up(seq=5, results=[ONE]))
    with pytest.raises(LocalProtocolError):
        worker.send(Up(seq=5))
    with pytest.raises(RemoteProtocolError):
        daemon.receive(msgspec.json.encode(Up(seq=5, results=[ONE])))


def test_nothing_follows_a_bye() -> None:
    worker, daemon = ends()
    daemon.receive(worker.send(Up(seq=1, results=[ONE], bye=True)))
    with pytest.raises(LocalProtocolError):
        worker.send(Up(beat=True))
    with pytest.raises(RemoteProtocolError):
        daemon.receive(b'{"beat":true}')
    assert worker.receive(daemon.send(Down(ack=1))).ack == 1, "the last acknowledgement still goes"


@pytest.mark.parametrize("data", [
    '{"registered":{"leaseSec":30,"beatSec":10}}',                   # unasked
    '{"ack":1}', '{"logAck":1}',                                     # of nothing
    '{"attempts":[{"id":"1"}]}',
    '{"attempts":[{"id":"","name":"x"}]}',
    '{"attempts":[{"id":"1","name":"x","timeoutSec":-1}]}',
    '{"cancel":[{"reason":"canceled"}]}',
    '{"error":"x"}',
])
def test_a_wrong_daemon_is_refused(data: str) -> None:
    worker, _ = ends()
    with pytest.raises(RemoteProtocolError):
        worker.receive(data)


@pytest.mark.parametrize("data", [
    "{}", '{"attempts":[{"id":"1","name":"x"}]}', '{"registered":{"leaseSec":30}}',
    '{"registered":{"leaseSec":30,"beatSec":10,"bytesMax":10}}'])
def test_the_first_answer_is_registered_or_an_error(data: str) -> None:
    worker = WorkerEnd()
    with pytest.raises(RemoteProtocolError):
        worker.receive(data)    # before it asked
    worker.send(REGISTER)
    with pytest.raises(RemoteProtocolError):
        worker.receive(data)
    error = worker.receive('{"error":{"code":"overloaded"}}').error
    assert error is not None
    assert error.code == "overloaded"


@pytest.mark.parametrize("down", [
    WELCOME, Down(ack=1), Down(attempts=[Attempt("1", "x")] * 10_001),
    Down(attempts=[Attempt("1", "x", Raw(b'"' + b"x" * 17_000_000 + b'"'))] * 2)])
def test_a_wrong_us_is_a_defect_of_the_daemon(down: Down) -> None:
    _, daemon = ends()
    with pytest.raises(LocalProtocolError):
        daemon.send(down)
    assert daemon.send(Down()) == b"{}", "what was refused has left no trace"


def test_the_daemon_answers_the_register_first() -> None:
    daemon = DaemonEnd()
    with pytest.raises(LocalProtocolError):
        daemon.send(WELCOME)
    daemon.receive(WorkerEnd().send(REGISTER))
    with pytest.raises(LocalProtocolError):
        daemon.send(Down(attempts=[Attempt("1", "x")]))
    with pytest.raises(LocalProtocolError):
        daemon.send(Down(registered=Registered(5.0, 10.0)))
    daemon.send(Down(error=PeerError("session_replaced")))
    with pytest.raises(LocalProtocolError):
        daemon.send(WELCOME)
    with pytest.raises(RemoteProtocolError):
        daemon.receive(b'{"beat":true}')


def test_a_wrong_us_is_a_defect_of_the_worker() -> None:
    worker = WorkerEnd()
    for up in (Up(beat=True), Up(register=Register("s", [])),
               Up(register=Register("s", []), holding=[], tasks=["a"])):
        with pytest.raises(LocalProtocolError):
            worker.send(up)
    worker.send(REGISTER)
    worker.receive(b'{"registered":{"leaseSec":30,"beatSec":10,"itemsMax":2,"bytesMax":18874368}}')
    for up in (REGISTER, Up(results=[ONE]), Up(seq=1), Up(seq=1, results=[ONE] * 3),
               Up(seq=1, results=[Result("1", raw("x" * 18_900_000))]),
               Up(progress=[Progress("1", text="\ud800")]), Up(logs=[LogLine("1", "")] * 1_001)):
        with pytest.raises(LocalProtocolError):
            worker.send(up)
    worker.send(Up(seq=1, results=[ONE]))


# --- any bytes -----------------------------------------------------------------------------------

UP_BYTES = msgspec.json.encode(Up(
    holding=["1f"], seq=3, logs=[LogLine("1f", "a\n", at=3)], log_seq=2, tasks=["resize", "é"],
    progress=[Progress("1.2", 0.5, "half")], beat=True,
    results=[Result("1", raw({"a": [1, "é"]})), Result("2", error=Failure("c", "m", raw([{}])))]))
DOWN_BYTES = msgspec.json.encode(Down(
    ack=1, refused=[Refused("1", attempt=2)], cancel=[CancelNotice("3")], drain=True,
    attempts=[Attempt("1.3", "resize", raw({"a": [1, "é"]}), 5.0, 3)]))
NESTED = [opening * 40_000 for opening in (b"[", b'{"a":', b'{"results":[', b'[{"x":')]


def takes_or_refuses(data: bytes | str) -> None:
    """Both ends, fresh and in the middle of a talk."""
    worker, daemon = ends()
    worker.send(Up(seq=1, results=[ONE]))
    for end in (daemon, DaemonEnd(), DaemonEnd(exchange=True)):
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(end.receive(data), Up)
    asking = WorkerEnd()
    asking.send(REGISTER)
    for other in (worker, asking, WorkerEnd(exchange=True)):
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(other.receive(data), Down)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=100))
@example(NESTED[0])
@example(NESTED[1])
@example(NESTED[2])
@example(b'{"zeal":' + NESTED[3])
@example(b'{"seq":1,"results":[{"id":"1","result":"\xff"}]}')
@example('{"seq":1,"results":[{"id":"1","result":"\ud800"}]}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_give_a_message_or_a_refusal(data: bytes | str) -> None:
    takes_or_refuses(data)


@settings(max_examples=500)
@given(st.sampled_from([UP_BYTES, DOWN_BYTES]), st.data())
def test_damaged_messages_give_a_message_or_a_refusal(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from("rid"))
        if kind == "r":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "i":
            damaged[at:at] = data.draw(st.sampled_from(
                [b"\xff", b'"', b"null", b"{", b"]", b"1e400", b"\\u", b"-", b"\0", whole]))
        elif len(damaged) > 1:
            del damaged[at:at + data.draw(st.integers(1, 8))]
        if not damaged:
            break
    takes_or_refuses(bytes(damaged))


@pytest.mark.parametrize("whole", [UP_BYTES, DOWN_BYTES])
def test_every_part_of_a_message_is_refused(whole: bytes) -> None:
    for end in range(len(whole)):
        takes_or_refuses(whole[:end])
        with pytest.raises(RemoteProtocolError):
            ends()[1].receive(whole[:end])


def test_an_invalid_text_inside_a_value_is_refused() -> None:
    _, daemon = ends()
    with pytest.raises(RemoteProtocolError):
        daemon.receive(b'{"seq":1,"results":[{"id":"1","result":"\xff"}]}')


def test_an_oversized_message_is_refused_unread() -> None:
    _, daemon = ends()
    with pytest.raises(RemoteProtocolError) as caught:
        daemon.receive(b" " * (p.MESSAGE_BYTES_MAX + 1))
    assert caught.value.code == "too_large"


# --- sizes ---------------------------------------------------------------------------------------

@given(st.lists(st.tuples(st.integers(0, 60_000), st.booleans()), max_size=12),
       st.integers(65_536, 300_000))
def test_what_fits_can_be_sent(sizes: list[tuple[int, bool]], bytes_max: int) -> None:
    batch = [Result("1", error=Failure("c", "\x01" * (size // 6))) if failed
             else Result("1", raw("x" * size)) for size, failed in sizes]
    count = p.fitting(batch, bytes_max)
    assert 0 < count <= len(batch) or not batch
    encoded = msgspec.json.encode(Up(seq=1, results=batch[:count]))
    assert len(encoded) <= bytes_max or count == 1


def test_the_largest_value_fits_and_ten_thousand_small_ones_do() -> None:
    large = [Attempt("1", "x" * 200, Raw(b'"' + b"x" * (p.VALUE_BYTES_MAX - 2) + b'"'))] * 2
    assert p.fitting(large) == 1
    assert p.fitting([Attempt("1", "x", raw(1))] * 20_000) == p.ITEMS_MAX
    _, daemon = ends()
    assert daemon.send(Down(attempts=large[:1]))


@pytest.mark.parametrize(("value", "deep"), [
    (b"[" * 200 + b"]" * 200, False), (b"[" * 201 + b"]" * 201, True),
    (b'{"a":' * 201 + b"1" + b"}" * 201, True), (b"[" + b"[],{}," * 500 + b"1]", False),
    (b'"' + b"[" * 500 + b'"', False), (b'["' + b'\\"[' * 500 + b'"]', False), (b"1", False)])
def test_depth_counts_nesting_only(value: bytes, deep: bool) -> None:
    assert p.too_deep(value) is deep
    assert msgspec.json.decode(value) is not None
