"""Removes what programs leave in their directories, however they left it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LIFTED: Final = ".lifted"
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(root: Path) -> None:
    """Remove a directory with all that is in it; what cannot go stays, and links are not followed.

    Also directories that their own user may not write, as some package managers leave them, and
    those that are nested deeper than a path may be long: each is lifted up to the root before it is
    looked into, so depth costs neither stack nor descriptors.
    """
    folders, lifted = [root], 0
    with suppress(OSError):
        _open_up(str(root), None)
    while folders:
        folder = folders.pop()
        with suppress(OSError), _opened(folder) as there:
            with os.scandir(there) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_folder in found:
                with suppress(OSError):
                    if is_folder:
                        _open_up(name, there)
                        above = root / f"{lifted}{_LIFTED}{os.getpid()}"
                        lifted += 1
                        os.rename(name, above, src_dir_fd=there)
                        folders.append(above)
                    else:
                        os.unlink(name, dir_fd=there)
        if folder != root:
            with suppress(OSError):
                folder.rmdir()
    with suppress(OSError):
        root.rmdir()


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_up(name: str, there: int | None) -> None:
    """Let its user look into a directory, change it and move it. Raises OSError."""
    descriptor = os.open(name, os.O_PATH | _FOLDER, dir_fd=there)
    try:
        if os.stat(descriptor).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)
