"""A report on a directory, as a plain program that an os_process task runs.

    echo '{"path": "/usr/share/doc", "top": 3}' | python3 examples/report.py

The task's `input` comes on stdin. What is said on stderr is the task's log, and can be followed
while the program runs; the one JSON line on stdout is the report. It needs nothing but Python.
"""

import json
import os
import sys
import time


def sizes_of(path: str) -> dict[str, int]:
    """Bytes in each entry of a directory, with all that is below it."""
    found = {}
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            found[entry.name] = sum(
                os.lstat(os.path.join(folder, name)).st_size
                for folder, _, names in os.walk(entry.path) for name in names)
        else:
            found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def main() -> int:
    text = sys.stdin.read()
    asked = json.loads(text) if text.strip() else {}
    path = asked.get("path", ".")
    print(f"looking at {os.path.abspath(path)}", file=sys.stderr, flush=True)
    for left in range(int(asked.get("pauseSec", 0)), 0, -1):
        print(f"{left} s to go", file=sys.stderr, flush=True)
        time.sleep(1)
    try:
        sizes = sizes_of(path)
    except OSError as error:
        # Exit codes other than 0 fail the task; they stand in its error.
        print(f"cannot look: {error}", file=sys.stderr)
        return 3
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:asked.get("top", 5)]
    print(json.dumps({"entries": len(sizes), "bytes": sum(sizes.values()),
                      "largest": [{"name": name, "bytes": size} for name, size in largest],
                      "load": os.getloadavg()[0]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
