"""Many idle workers in one process: python -m bench.fleet_worker PORT COUNT.

They speak the protocol through wsproto by hand, for 5,000 full SDK workers would weigh more than
the daemon that is measured.
"""

from __future__ import annotations

import socket
import sys
import time

from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request, TextMessage

from plumd.sdk.ends import WorkerEnd
from plumd.sdk.protocol import Register, Up

BEAT_S = 10.0


def connect(port: int, number: int) -> tuple[socket.socket, WSConnection, WorkerEnd]:
    """One registered worker."""
    line = socket.create_connection(("127.0.0.1", port))
    ws, end = WSConnection(ConnectionType.CLIENT), WorkerEnd()
    target = f"/v1/embedded-workers/fleet-{number}/stream"
    line.sendall(ws.send(Request(host="127.0.0.1", target=target)))
    register = Register(session=f"s{number}", tasks=["idle"], capacity=4, beat_sec=BEAT_S)
    accepted = answered = False
    while not answered:
        ws.receive_data(line.recv(65536))
        for event in ws.events():
            if isinstance(event, AcceptConnection) and not accepted:
                accepted = True
                line.sendall(ws.send(TextMessage(
                    data=end.send(Up(register=register, holding=[])).decode())))
            elif isinstance(event, TextMessage):
                answered = True
    return line, ws, end


def main() -> None:
    """Beat until killed."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    fleet = [connect(port, number) for number in range(count)]
    print("connected", flush=True)
    due = time.monotonic()
    while True:
        for line, ws, end in fleet:
            due += BEAT_S / count
            if (wait_s := due - time.monotonic()) > 0:
                time.sleep(wait_s)
            line.sendall(ws.send(TextMessage(data=end.send(Up(beat=True)).decode())))


if __name__ == "__main__":
    main()
