"""Profiles: names for daemons that somebody works with, in a file of the user's.

    default = "lab"                     # the one that counts when none is named

    [lab]
    server = "http://10.1.0.5:8080"
    output = "json"
"""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import click

OUTPUTS: Final = ("table", "json", "name")


class Profile(NamedTuple):
    """What a profile says, None = nothing. asked: it was named, and so it comes before what the
    environment says of the server."""

    server: str | None = None
    output: str | None = None
    asked: bool = False


def file_of_profiles() -> Path:
    """Where they stand."""
    given = os.environ.get("PLUM_PROFILES")
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    path = Path(given or f"{home}/plum/profiles.toml")
    with suppress(RuntimeError):        # a user without a home, as in some containers, has none
        return path.expanduser()
    return path


def profile_of(name: str | None) -> Profile:
    """A profile by its name; None = that of PLUM_PROFILE, else the file's default, if there is one.

    Raises: click.UsageError when the file, or what is asked for in it, is not as it should be.
    """
    path = file_of_profiles()
    wanted = name or os.environ.get("PLUM_PROFILE")
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        if wanted is None:
            return Profile()
        raise click.UsageError(f"no profile {wanted!r}: {path}: {error.strerror}") from None
    except ValueError as error:     # of TOML and of UTF-8
        raise click.UsageError(f"{path}: {error}") from None
    found = wanted or content.get("default")
    if found is None:
        return Profile()
    if not isinstance(found, str) or not isinstance(content.get(found), dict):
        raise click.UsageError(f"{path} has no profile {found!r}")
    return _read(content[found], f"{path}: {found}", asked=wanted is not None)


def _read(table: dict[str, object], where: str, *, asked: bool) -> Profile:
    """What a profile's table says."""
    for key, value in table.items():
        if key not in ("server", "output") or not isinstance(value, str):
            raise click.UsageError(f"{where}.{key}: a profile has server and output, both texts")
    server, output = table.get("server"), table.get("output")
    if output is not None and output not in OUTPUTS:
        raise click.UsageError(f"{where}.output is one of {', '.join(OUTPUTS)}")
    return Profile(None if server is None else str(server), None if output is None else str(output),
                   asked)
