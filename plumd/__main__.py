"""The program `plumd`."""

from __future__ import annotations

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
        return settings.load(flags, os.environ, config_file or settings.from_environment())
    except ConfigError as error:
        click.echo(f"plumd: {error}", err=True)
        sys.exit(EX_CONFIG)


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
    from plumd import daemon, logs  # here, for the other commands need none of it
    from plumd.store.migrate import Refused

    config = read(config_file, flags)
    if print_config:
        click.echo(settings.describe(config), nl=False)
    if check_config or print_config:
        return
    logs.set_up(config.log_level, config.log_format)
    try:
        trio.run(daemon.run, config)
    except (Refused, daemon.DataDirInUse) as error:
        click.echo(f"plumd: {error}", err=True)
        sys.exit(EX_CANTCREAT)
    except OSError as error:
        click.echo(f"plumd: {error}", err=True)
        sys.exit(EX_OSERR)


serve.params.extend(option(setting) for setting in SETTINGS)


@main.command("sample-config")
def sample_config() -> None:
    """Print a configuration file with every setting and its default."""
    click.echo(settings.sample(), nl=False)


if __name__ == "__main__":
    main()
