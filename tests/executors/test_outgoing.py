"""The client against servers that answer slowly, in pieces, wrongly, too much or not at all."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

from plumd.api import admission
from plumd.executors import outgoing
from plumd.executors.outgoing import BODY_BYTES_MAX, KEEP_S
from plumd.executors.targets import MESSAGE_CHARS_MAX, CallFailed, Policy
from tests.executors.farside import (
    Call,
    Caller,
    answer,
    certified,
    far_side,
    refusing_port,
    replying,
    silent,
)


async def failure(client: Caller, url: str, body: bytes = b"1") -> CallFailed:
    """How a call fails."""
    with pytest.raises(CallFailed) as caught:
        await client.post(url, body)
    return caught.value


def test_the_header_is_the_one_that_the_api_refuses() -> None:
    assert outgoing.ORIGIN_HEADER == admission.PLUM_ORIGIN


def test_no_asyncio_comes_with_it() -> None:
    script = ("import sys, plumd.executors.callback, plumd.executors.service\n"
              "print('asyncio' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "False"


async def test_a_call_and_what_it_looks_like() -> None:
    async with far_side(replying(200, b'{"a":1}', "X-Some: thing", "X-Some: other")) as side:
        got = await Caller().post(side.url("/run?x=1"), b'[1]', (("x-extra", "yes"),))
    assert (got.status, got.reason, got.body) == (200, "Word", b'{"a":1}')
    assert got.headers["x-some"] == "thing"
    call = side.calls[0]
    assert (call.method, call.path, call.body) == ("POST", "/run?x=1", b"[1]")
    assert call.headers["content-type"] == "application/json"
    assert call.headers["host"] == f"127.0.0.1:{side.port}"
    assert call.headers["x-plum-origin"] == "plumd"
    assert call.headers["x-extra"] == "yes"


async def test_connections_are_kept_and_have_no_delay() -> None:
    client = Caller()
    async with far_side(replying(200, b"1")) as side:
        for _ in range(5):
            await client.post(side.url(), b"1")
        assert side.connections == 1
        assert client.idle == 1
        line = next(iter(client._kept.places.values())).idle[0]
        assert line.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_concurrent_calls_have_connections_of_their_own() -> None:
    client = Caller()

    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        if len(side.calls) == 20:
            everybody_is_here.set()
        await everybody_is_here.wait()      # nobody is answered before all have asked
        await stream.send_all(answer(200, b"1"))
        return True

    everybody_is_here = trio.Event()
    async with far_side(behave) as side:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.post, side.url(), b"1")
        assert client.idle == side.connections == 20


async def test_an_origin_takes_no_more_calls_at_once_than_its_bound(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "CALLS_PER_ORIGIN_MAX", 3)
    client = Caller()
    async with far_side(silent) as side, far_side(replying(200, b"1")) as other:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.post, side.url(), b"1")
            await side.asked.wait()
            # What is stuck at one origin holds up nobody else.
            assert (await client.post(other.url(), b"1")).status == 200
            assert side.open <= 3
            nursery.cancel_scope.cancel()
    assert len(side.calls) <= 3


async def test_an_answer_in_two_segments() -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        whole = answer(200, b'{"ok":true}')
        head, blank, body = whole.partition(b"\r\n\r\n")
        await stream.send_all(head + blank)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(body)
        return True

    async with far_side(behave) as side:
        assert (await Caller().post(side.url(), b"1")).body == b'{"ok":true}'


async def test_an_answer_byte_by_byte_after_an_interim_one() -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        for byte in b"HTTP/1.1 102 Wait\r\n\r\n" + answer(200, b"bytes"):
            await stream.send_all(bytes([byte]))
        return True

    async with far_side(behave) as side:
        assert (await Caller().post(side.url(), b"1")).body == b"bytes"


@pytest.mark.parametrize(("raw", "body", "kept"), [
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
     b"abcde", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end", False),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", b"ab", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n", b"ab", False),
])
async def test_ways_to_end_an_answer(raw: bytes, body: bytes, kept: bool) -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(raw)
        return kept

    client = Caller()
    async with far_side(behave) as side:
        assert (await client.post(side.url(), b"1")).body == body
        assert client.idle == kept


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with far_side(replying(200, b"secret")) as other:
        async with far_side(replying(302, b"", f"Location: {other.url()}")) as side:
            assert (await Caller().post(side.url(), b"1")).status == 302
    assert other.calls == []


async def test_a_connection_closed_before_the_answer_is_a_lost_call() -> None:
    async def behave(_stream: trio.SocketStream, _call: Call) -> bool:
        return False

    async with far_side(behave) as side:
        assert (await failure(Caller(), side.url())).code == "connection_lost"
    assert len(side.calls) == 1


@pytest.mark.parametrize("raw", [b"HTTP/1.1 20", answer(200, b"long body")[:-3]])
async def test_a_connection_closed_inside_the_answer_is_a_lost_call(raw: bytes) -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(raw)
        return False

    async with far_side(behave) as side:
        failed = await failure(Caller(), side.url())
    assert failed.code == "connection_lost"
    assert len(side.calls) == 1


async def test_a_reset_during_the_call_is_a_lost_call() -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False

    async with far_side(behave) as side:
        assert (await failure(Caller(), side.url())).code == "connection_lost"


@pytest.mark.parametrize("raw", [
    b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 80_000, b"\1" * 60_000 + b"\r\n\r\n",
])
async def test_what_is_no_http_is_a_bad_answer(raw: bytes) -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(raw)
        return True

    async with far_side(behave) as side:
        failed = await failure(Caller(), side.url())
        assert failed.code == "bad_answer"
        assert len(failed.message) <= MESSAGE_CHARS_MAX
        await side.left.wait()


async def test_a_body_without_an_end_is_cut_off() -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 1_000_000)

    async with far_side(behave) as side:
        failed = await failure(Caller(), side.url())
        await side.left.wait()
    assert failed.code == "answer_too_large"
    assert not failed.retryable


async def test_the_largest_body_passes() -> None:
    async with far_side(replying(200, b"x" * BODY_BYTES_MAX)) as side:
        assert len((await Caller().post(side.url(), b"1")).body) == BODY_BYTES_MAX


async def test_of_an_answer_no_more_is_read_than_is_enough() -> None:
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(b"HTTP/1.1 404 Word\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 1_000_000)

    async with far_side(behave) as side:
        found = await Caller().request("GET", side.url(), enough=10_000)
        await side.left.wait()
    assert found.status == 404
    assert 10_000 < len(found.body) < 100_000
    async with far_side(replying(200, b"x" * 10_000)) as side:
        caller = Caller()
        for _ in range(2):
            found = await caller.request("GET", side.url(), enough=10_000)
            assert len(found.body) == 10_000
        assert side.connections == 1, "an answer that was read whole leaves a connection"


async def test_a_large_call_is_sent_whole() -> None:
    async with far_side(replying(200)) as side:
        await Caller().post(side.url(), b"y" * 4_000_000)
    assert side.calls[0].body == b"y" * 4_000_000


async def test_a_server_that_refuses_a_large_body_early_is_heard() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def refuse(stream: trio.SocketStream) -> None:
            await stream.receive_some(100)
            await stream.send_all(answer(413, b"too much", "Connection: close"))
            await stream.send_eof()
            while await stream.receive_some(1 << 16):
                pass

        nursery.start_soon(trio.serve_listeners, refuse, listeners)
        port = listeners[0].socket.getsockname()[1]
        got = await Caller().post(f"http://127.0.0.1:{port}/", b"z" * 8_000_000)
        assert (got.status, got.body) == (413, b"too much")
        nursery.cancel_scope.cancel()


async def test_a_slow_answer_ends_with_the_callers_patience() -> None:
    client = Caller()
    async with far_side(silent) as side:
        with trio.move_on_after(0.05) as patience:
            await client.post(side.url(), b"1")
        assert patience.cancelled_caught
        assert client.idle == 0
        assert client._kept.places == {}


# ---------------------------------------------------------------- kept connections


async def test_a_kept_connection_that_was_closed_is_replaced_unseen() -> None:
    async def one_call(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(answer(200, b"1"))    # says nothing of closing, and closes
        return False

    client = Caller()
    async with far_side(one_call) as side:
        for _ in range(3):
            await client.post(side.url(), b"1")
            with trio.fail_after(10):
                while side.open:
                    await trio.testing.wait_all_tasks_blocked()
    assert len(side.calls) == side.connections == 3


async def test_a_call_that_a_kept_connection_took_is_never_sent_twice() -> None:
    """The second call is read by the server, which then closes: it must not be repeated."""
    async def one_answer(stream: trio.SocketStream, _: Call) -> bool:
        if len(side.calls) == 1:
            await stream.send_all(answer(200, b"1"))
        return len(side.calls) == 1

    client = Caller()
    async with far_side(one_answer) as side:
        await client.post(side.url(), b"1")
        assert (await failure(client, side.url(), b"2")).code == "connection_lost"
    assert [call.body for call in side.calls] == [b"1", b"2"]
    assert side.connections == 1


async def test_a_call_of_which_nothing_was_taken_goes_out_afresh() -> None:
    client = Caller()
    async with far_side(replying(200, b"1")) as side:
        await client.post(side.url(), b"1")
        line = next(iter(client._kept.places.values())).idle[0]
        line.socket.shutdown(socket.SHUT_WR)    # whatever is sent from now on is refused at once
        # The server sees the end and closes; a connection that is not yet seen as closed is what
        # is wanted here, so it is put to use before the server's end arrives.
        line.socket.is_readable = lambda: False  # type: ignore[method-assign]
        assert (await client.post(side.url(), b"2")).status == 200
    assert [call.body for call in side.calls] == [b"1", b"2"]
    assert side.connections == 2


async def test_idle_connections_are_closed_after_a_while(
        autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    client = Caller()
    async with far_side(replying(200, b"1")) as side, trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.post(side.url(), b"1")
        begun = trio.current_time()
        await side.left.wait()
        assert trio.current_time() - begun == pytest.approx(KEEP_S)
        assert client.idle == 0
        await client.post(side.url(), b"1")
        nursery.cancel_scope.cancel()
    assert client.idle == 0
    assert side.connections == 2


async def test_an_expired_connection_is_not_used_even_without_the_task(
        autojump_clock: trio.testing.MockClock) -> None:
    client = Caller()
    async with far_side(replying(200, b"1")) as side:
        await client.post(side.url(), b"1")
        autojump_clock.jump(KEEP_S + 1)
        await client.post(side.url(), b"1")
    assert side.connections == 2


# ---------------------------------------------------------------- names and addresses


def resolving(*addresses: str) -> tuple[list[str], outgoing.Resolve]:
    """A resolver with one answer for all names, and the names that it was asked."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        asked.append(host)
        return list(addresses)

    return asked, resolve


async def test_a_name_with_one_forbidden_address_is_not_called_at_all() -> None:
    async with far_side(replying(200)) as side:
        _, resolve = resolving("127.0.0.1", "169.254.169.254")
        failed = await failure(Caller(resolve=resolve), f"http://inside.example:{side.port}/")
    assert failed.code == "refused_address"
    assert "169.254.169.254" in failed.message
    assert side.connections == 0


async def test_a_name_is_resolved_once_and_connected_to_what_was_checked() -> None:
    asked, resolve = resolving("127.0.0.1")
    async with far_side(replying(200)) as side:
        got = await Caller(resolve=resolve).post(f"http://name.example:{side.port}/", b"1")
        assert got.status == 200
    assert asked == ["name.example"]
    assert side.calls[0].headers["host"] == f"name.example:{side.port}"


async def test_the_next_address_of_a_name_is_tried() -> None:
    _, resolve = resolving("::1", "127.0.0.1")
    async with far_side(replying(200)) as side:
        got = await Caller(resolve=resolve).post(f"http://two.example:{side.port}/", b"1")
    assert got.status == 200


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
                                  "169.254.43518", "[::ffff:169.254.169.254]", "0", "0.0.0.0"])
async def test_odd_spellings_of_forbidden_addresses_lead_nowhere(host: str) -> None:
    failed = await failure(Caller(), f"http://{host}:9/")
    assert failed.code == "refused_address"


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "localhost",
                                  "[::ffff:127.0.0.1]"])
async def test_the_daemons_own_door_is_found_under_any_spelling(host: str) -> None:
    async with far_side(replying(200)) as side:
        policy = Policy(listeners=frozenset({("127.0.0.1", side.port), ("::1", side.port)}))
        failed = await failure(Caller(policy), f"http://{host}:{side.port}/")
    assert failed.code == "refused_address"
    assert side.connections == 0


async def test_the_operators_list_is_asked() -> None:
    async with far_side(replying(200)) as side:
        client = Caller(Policy((ipaddress.ip_network("10.0.0.0/8"),)))
        assert (await failure(client, side.url())).code == "refused_address"
        client.policy = Policy((ipaddress.ip_network("127.0.0.0/8"),))
        assert (await client.post(side.url(), b"1")).status == 200


async def test_names_that_cannot_be_resolved() -> None:
    async def fails(_host: str, _port: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(-2, "Name or service not known")

    failed = await failure(Caller(resolve=fails), "http://nowhere.example/")
    assert failed.code == "unreachable"
    assert "Name or service not known" in failed.message
    _, none = resolving()
    assert (await failure(Caller(resolve=none), "http://none.example/")).code == "unreachable"


async def test_a_resolver_that_hangs_costs_the_connect_time(
        autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock

    async def hangs(_host: str, _port: int) -> NoReturn:
        await trio.sleep_forever()

    begun = trio.current_time()
    failed = await failure(Caller(resolve=hangs), "http://slow.example/")
    assert failed.code == "unreachable"
    assert trio.current_time() - begun == pytest.approx(outgoing.CONNECT_S)


async def test_nobody_listens() -> None:
    port = await refusing_port()
    failed = await failure(Caller(), f"http://127.0.0.1:{port}/")
    assert (failed.code, failed.retryable) == ("unreachable", True)
    assert failed.message == f"127.0.0.1:{port} cannot be reached: Connection refused"
    _, resolve = resolving("127.0.0.1")
    named = await failure(Caller(resolve=resolve), f"http://name.example:{port}/")
    assert named.message == (
        f"name.example:{port} cannot be reached: 127.0.0.1: Connection refused")
    with pytest.raises(CallFailed):
        await Caller().probe("127.0.0.1", port)


async def test_a_probe_connects_and_hangs_up() -> None:
    async with far_side(replying(200)) as side:
        await Caller().probe("127.0.0.1", side.port)
        await side.left.wait()
    assert side.calls == []


async def test_headers_that_cannot_be_written_are_refused() -> None:
    async with far_side(replying(200)) as side:
        with pytest.raises(CallFailed) as caught:
            await Caller().request("POST", side.url(), b"1", (("x-bad", "a\r\nb: c"),))
    assert caught.value.code == "bad_url"
    assert side.connections == 0


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    return certified(tmp_path_factory.mktemp("tls"))


async def test_tls_with_a_certificate_that_is_trusted_and_one_that_is_not(
        certificate: tuple[Path, Path]) -> None:
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*certificate)

    async def serve(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, served, server_side=True, https_compatible=True)
        try:
            data = b""
            while b"\r\n\r\n1" not in data:
                data += await secured.receive_some()
            await secured.send_all(answer(200, b"secure"))
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        failed = await failure(Caller(), url)
        assert failed.code == "unreachable"
        assert "certificate" in failed.message
        trusting = Caller(tls=ssl.create_default_context(cafile=str(certificate[0])))
        assert (await trusting.post(url, b"1")).body == b"secure"
        trusting.close()
        nursery.cancel_scope.cancel()


async def test_tls_towards_a_server_that_speaks_plainly() -> None:
    async with far_side(silent) as side:
        client = Caller(connect_s=0.2)
        url = f"https://127.0.0.1:{side.port}/"
        assert (await failure(client, url)).code == "unreachable"
