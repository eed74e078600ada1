"""caller.py BASE SERVICE FILE: asks for an endpoint, calls it once, writes down what came of it.

There is no second try: a call that fails is a line that is no number.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx

PAUSE_S = 0.01


def call(client: httpx.Client, base: str, service: str) -> str:
    """The version that answered, or what went wrong."""
    found = client.get(f"{base}/v1/discovery/one",
                       params={"service": service, "strategy": "round-robin"})
    if found.status_code != 200:
        return f"discovery: {found.status_code}"
    endpoint = found.json()
    where = f"http://{endpoint['ip']}:{endpoint['port']}/"
    try:
        return str(client.get(where).json()["version"])
    except httpx.TransportError as error:
        return f"{where}: {error!r}"


def main() -> None:
    """Until killed."""
    base, service, record = sys.argv[1:]
    with httpx.Client(trust_env=False, timeout=5) as client, Path(record).open("a") as file:
        while True:
            print(call(client, base, service), file=file, flush=True)
            time.sleep(PAUSE_S)     # the load that it makes


if __name__ == "__main__":
    main()
