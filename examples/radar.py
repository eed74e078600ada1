"""A radar: a device that reports its states and is operated, without a listening port.

    python examples/radar.py http://127.0.0.1:8080 radar-1
    plum device get radar-1
    plum device op radar-1 set-power=80 scan=true

Ctrl-C or SIGTERM ends it.
"""

import logging
import sys
import threading

from plumd.sdk import Device, OperationFailed

device = Device(
    sys.argv[2] if len(sys.argv) > 2 else "radar-1",
    sys.argv[1] if len(sys.argv) > 1 else None,  # None: PLUM_SERVER, else 127.0.0.1:8080
    type="radar",
    beat_s=5,                                    # taken for gone after three of these
)
device.state("power", type="int", unit="%")
device.state("scanning", type="bool")
device.state("azimuth", type="double", unit="deg")
scanning = threading.Event()
now = {"power": 0}


# The daemon has checked type and bounds before the value comes here. When this returns, whoever
# asked is told that it is done.
@device.operation("set-power", type="int", unit="%", min=0, max=100)
def set_power(value: int) -> None:
    """Change the power."""
    now["power"] = value
    device.report(now)


@device.operation("scan", type="bool")
def scan(value: bool) -> None:
    """Begin or end to scan; without power that is refused."""
    if value and not now["power"]:
        raise OperationFailed("there is no power")
    scanning.set() if value else scanning.clear()
    device.report({"scanning": value})


def turn() -> None:
    """Turn while it scans, and report where it looks ten times a second."""
    azimuth = 0.0
    pause = threading.Event()
    while scanning.wait():
        azimuth = (azimuth + 3.6) % 360
        device.report({"azimuth": round(azimuth, 1)})
        pause.wait(0.1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    threading.Thread(target=turn, daemon=True).start()
    device.report({**now, "scanning": False, "azimuth": 0.0})
    device.run()
