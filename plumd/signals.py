"""Signals: SIGTERM and SIGINT let the daemon leave, SIGHUP reads the settings again."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Final

import trio

from plumd import logs, notify
from plumd.config import SETTINGS, Config, ConfigError

log = logging.getLogger("plumd.signals")
AT_ONCE: Final = ("log_level", "log_format")


async def watch(leave: trio.Event, config: Config, reread: Callable[[], Config], *,
                task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """The first SIGTERM or SIGINT drains, the second stops now; until canceled.

    reread: the settings as they are said now; raises ConfigError.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as heard:
        task_status.started()
        async for number in heard:
            if number == signal.SIGHUP:
                reload(config, reread)
            elif leave.is_set():
                raise SystemExit(128 + number)
            else:
                leave.set()


def reload(config: Config, reread: Callable[[], Config]) -> None:
    """What can change while the daemon runs does, the rest is named."""
    notify.tell("RELOADING=1")
    try:
        now = reread()
    except ConfigError as error:
        log.warning("the settings are wrong and stay as they were", extra={"reason": str(error)})
    else:
        logs.set_up(now.log_level, now.log_format)
        log.info("the settings were read again", extra={
            "need_a_restart": ", ".join(waiting(config, now)) or "none"})
    notify.tell("READY=1", surely=True)


def waiting(config: Config, now: Config) -> list[str]:
    """The settings that differ and cannot change while plumd runs."""
    return [setting.name for setting in SETTINGS if setting.name not in AT_ONCE
            and getattr(config, setting.name) != getattr(now, setting.name)]
