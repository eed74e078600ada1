"""One session at a broker, over a socket whose other end the test holds."""

from __future__ import annotations

import trio

from plumd import mqtt_packets as packets
from plumd.mqtt import Brokers, Session
from plumd.store.brokers import BrokerBody, BrokerRow

ROW = BrokerRow("main", 1, BrokerBody("mqtt://127.0.0.1:1883", "me"), "", 0)


async def test_after_half_a_packet_nothing_more_is_sent() -> None:
    ours, theirs = trio.socket.socketpair()
    session = Session(object.__new__(Brokers), ROW, ())
    session.stream = trio.SocketStream(ours)
    await session.send(packets.PINGREQ)
    with trio.move_on_after(0.05) as impatient:
        await session.send(packets.publish("t", bytes(8 << 20), 1))
    assert impatient.cancelled_caught, "more than the socket takes"
    with trio.move_on_after(5) as again:
        # Another message would be read as the rest of the one before.
        try:
            await session.send(packets.publish("t", b"other", 2))
        except trio.ClosedResourceError:
            pass
        else:
            raise AssertionError("the line is broken")
    assert not again.cancelled_caught
    received = 0
    with trio.fail_after(5):
        while data := await theirs.recv(1 << 20):
            received += len(data)
            assert b"other" not in data
    assert 2 < received < 8 << 20
    theirs.close()
