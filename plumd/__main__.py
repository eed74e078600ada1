"""The program `plumd`."""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path
from typing import Final

import click
import trio

import plumd
from plumd import config as settings
from plumd.config import SETTINGS, Config, ConfigError, Setting, Value

EX_CONFIG: Final = 78
EX_CANTCREAT: Final = 73
EX_OSERR: Final = 71


def option(setting: Setting) -> click.Option:
    """The flag of a setting; its value is checked with all others, not here."""
    name = "--" + setting.name.replace("_", "-")
    if isinstance(setting.default, bool):
        return click.Option([name + "/--no-" + name[2:], setting.name], default=None,
                            help=setting.help)
    multiple = isinstance(setting.default, tuple)
    return click.Option([name, setting.name], multiple=multiple, help=setting.help)


def read(config_file: Path | None, flags: dict[str, Value | None]) -> Config:
    """The checked settings; on a wrong one says so and exits with EX_CONFIG."""
    try:
        return load(config_file, flags)
    except ConfigError as error:
        click.echo(f"plumd: {error}", err=True)
        sys.exit(EX_CONFIG)


def load(config_file: Path | None, flags: dict[str, Value | None]) -> Config:
    """The checked settings as they are said now. Raises: ConfigError."""
    return settings.load(flags, os.environ, config_file or settings.from_environment())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(plumd.__version__, prog_name="plumd")
def main() -> None:
    """Plum's daemon: tasks, workflows and workers over one durable engine."""


@main.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path, dir_okay=False),
              help="TOML file with settings; also PLUM_CONFIG.")
@click.option("--check-config", is_flag=True, help="Check the settings and exit (0, or 78).")
@click.option("--print-config", is_flag=True, help="Show every setting, its value and origin.")
def serve(config_file: Path | None, check_config: bool, print_config: bool,
          **flags: Value | None) -> None:
    """Serve until SIGTERM; it drains, a second one stops at once."""
    gc.disable()    # until the daemon freezes what it was built from, nearly all of which stays
    from plumd import daemon, logs  # here, for the other commands need none of it
    from plumd.store.migrate import Refused

    config = read(config_file, flags)
    if print_config:
        click.echo(settings.describe(config), nl=False)
    if check_config or print_config:
        return
    logs.set_up(config.log_level, config.log_format)
    try:
        trio.run(daemon.run, config, lambda: load(config_file, flags))
    except (Refused, daemon.DataDirInUse) as error:
        click.echo(f"plumd: {error}", err=True)
        sys.exit(EX_CANTCREAT)
    except OSError as error:
        click.echo(f"plumd: {words(error)}", err=True)
        sys.exit(EX_OSERR)


def words(error: OSError) -> str:
    """What the machine refused, and of which file or address."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno == errno.EADDRINUSE:
        text += " by another program, or by another plumd; --listen takes another address"
    return text


serve.params.extend(option(setting) for setting in SETTINGS)


@main.command(short_help="Make this machine a node.")
@click.option("--controller", envvar="CONTROLLER_BASE", default="http://127.0.0.1:8080",
              show_default=True, help="Base URL of the controller; also CONTROLLER_BASE.")
@click.option("--node-id", envvar="AGENT_NODE_ID", default="",
              help="Name of this machine among the nodes; also AGENT_NODE_ID. Default: host name.")
@click.option("--data-dir", envvar="AGENT_DATA_DIR", default="",
              help="Where processes, artifacts and logs are kept; also AGENT_DATA_DIR. Default: "
                   "$STATE_DIRECTORY or ./agent-data.")
@click.option("--ip", envvar="AGENT_IP", default="",
              help="Address that others reach this machine at; also AGENT_IP. Default: the one "
                   "that the controller sees.")
@click.option("--label", "labels", multiple=True, envvar="AGENT_LABELS",
              help="key=value, any number of times; also AGENT_LABELS=a=1,b=2.")
@click.option("--slots", envvar="AGENT_SLOTS", default=64, show_default=True,
              type=click.IntRange(1, 100_000), help="Processes of tasks at once.")
@click.option("--beat-sec", envvar="AGENT_BEAT_SEC", default=10.0, show_default=True,
              type=click.FloatRange(0.2, 3600),
              help="The session is heard at least so often; after three beats without a word the "
                   "node's tasks are lost.")
@click.option("--sync-sec", envvar="SYNC_INTERVAL_SEC", default=5.0, show_default=True,
              type=click.FloatRange(0.2, 3600),
              help="How often assignments are looked at when nothing wakes the agent.")
@click.option("--cgroups/--no-cgroups", envvar="AGENT_CGROUPS", default=True, show_default=True,
              help="Use control groups where the machine lets us.")
@click.option("--cache-mb", envvar="AGENT_CACHE_MB", default=4096, show_default=True,
              type=click.IntRange(0, 1 << 30), help="Artifacts that are kept for the next start.")
@click.option("--logs-mb", envvar="AGENT_LOGS_MB", default=2048, show_default=True,
              type=click.IntRange(1, 1 << 30),
              help="Output of instances that is kept once they have ended; the oldest goes first.")
@click.option("--until-eof", is_flag=True, hidden=True, help="End when stdin ends, too.")
@click.option("--log-level", default="info", show_default=True,
              type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", default="text", show_default=True,
              type=click.Choice(["text", "json"]))
def agent(controller: str, node_id: str, data_dir: str, ip: str, labels: tuple[str, ...],
          slots: int, beat_sec: float, sync_sec: float, cgroups: bool, cache_mb: int,
          logs_mb: int, until_eof: bool, log_level: str, log_format: str) -> None:
    """Make this machine a node: run what the controller asks for, until SIGTERM.

    Processes live on when the agent ends, and are found again when it is back.
    """
    from plumd import logs
    from plumd.agent import main as program
    from plumd.agent.identity import DataDirInUse
    from plumd.agent.settings import Settings, check, default_node_id, labels_of

    folder = data_dir or os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "agent-data"
    try:
        asked = Settings(
            controller=controller, node_id=node_id or default_node_id(),
            data_dir=Path(folder).absolute(), ip=ip, labels=labels_of(labels), slots=slots,
            task_beat_s=beat_sec, sync_s=sync_sec, cgroups=cgroups, cache_bytes=cache_mb << 20,
            logs_bytes=logs_mb << 20, token=os.environ.get("PLUM_TOKEN", ""))
        check(asked)
    except ValueError as error:
        click.echo(f"plumd agent: {error}", err=True)
        sys.exit(EX_CONFIG)
    logs.set_up(log_level, log_format)
    try:
        trio.run(program.run, asked, until_eof)
    except DataDirInUse as error:
        click.echo(f"plumd agent: {error}", err=True)
        sys.exit(EX_CANTCREAT)
    except OSError as error:
        click.echo(f"plumd agent: {words(error)}", err=True)
        sys.exit(EX_OSERR)


@main.command("install-units", short_help="Install the systemd units.")
@click.option("--root", default="/", show_default=True, help="Below which directory.",
              type=click.Path(path_type=Path, file_okay=False))
@click.option("--program", default="", help="Path of plumd in the units. Default: this one.")
def install_units(root: Path, program: str) -> None:
    """Install the systemd units of controller and agent; says what to do next."""
    from plumd import units

    program = program or units.own_program()
    try:
        for path in units.install(root, program):
            click.echo(path)
    except OSError as error:
        click.echo(f"plumd install-units: {error}", err=True)
        sys.exit(EX_CANTCREAT)
    if units.unseen(program):
        click.echo(f"plumd.service cannot start {program}: it sees nothing of homes and /tmp. "
                   f"Install Plum elsewhere, so that it is {units.PROGRAM}, or use --program",
                   err=True)
    click.echo(units.NEXT, nl=False, err=True)


@main.command("sample-config", short_help="Print a configuration file with all defaults.")
def sample_config() -> None:
    """Print a configuration file with every setting and its default."""
    click.echo(settings.sample(), nl=False)


if __name__ == "__main__":
    main()
