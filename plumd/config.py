"""The settings: one table, from which the flags, the environment, the file, their check, the
sample file and the reference page come."""

from __future__ import annotations

import ipaddress
import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
PREFIX: Final = "PLUMD_"


class ConfigError(Exception):
    """A setting is wrong; nothing was started. The message names it and where it came from."""


class Setting(msgspec.Struct, frozen=True):
    """One setting. low, high: bounds of a number.  env: older names, tried after PLUMD_<NAME>."""

    name: str
    default: Value
    help: str
    low: float = 0
    high: float = 1 << 53
    env: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    make: Callable[[Mapping[str, str]], str] | None = None
    """Makes the default from the environment."""


def data_dir_default(environ: Mapping[str, str]) -> str:
    """systemd's state directory, else ./data."""
    return environ.get("STATE_DIRECTORY", "").split(":")[0] or "data"


def node_id_default(environ: Mapping[str, str]) -> str:
    """This machine's name."""
    del environ
    return socket.gethostname()


SETTINGS: Final = (
    Setting("listen", "127.0.0.1:8080", "HOST:PORT to listen on", env=("CONTROLLER_ADDR",)),
    Setting("grpc_listen", "", "HOST:PORT to listen on as well, for workers that look for gRPC on "
            "a port of its own, like 127.0.0.1:9090; each port takes all protocols"),
    Setting("unix_socket", "", "path of a unix socket to listen on as well"),
    Setting("data_dir", "", "directory of the database, blobs and process logs; default "
            "$STATE_DIRECTORY or ./data", env=("CONTROLLER_DATA_DIR",), make=data_dir_default),
    Setting("database", "", "path of the database file; default <data_dir>/plum.db",
            env=("CONTROLLER_DB",)),
    Setting("trusted_networks", (), "networks whose workers, agents, devices and SDK clients may "
            "use their routes without a token, like 10.1.0.0/16"),
    Setting("host_names", (), "names by which clients call this daemon, beside IP addresses and "
            "localhost"),
    Setting("behind_proxy", False, "a proxy on this machine forwards requests and guards the door"),
    Setting("node_id", "", "the name of this machine among the nodes; default its host name",
            make=node_id_default),
    Setting("agent", False, "run an agent beside the daemon, so that its machine is a node too"),
    Setting("os_process_slots", 64, "processes that may run on this machine at once; 0 = none",
            high=100_000),
    Setting("service_slots", 256, "calls to services and HTTP workers under way at once", low=1,
            high=100_000),
    Setting("outgoing_networks", (), "networks that plumd may call; default loopback, private and "
            "public addresses, never link-local ones"),
    Setting("builtin_http_hosts", (), "the only hosts that builtin.http calls; `.example.org` is "
            "all names below it, default any that outgoing_networks lets through"),
    Setting("service_health_ttl_sec", 15.0, "an endpoint is unhealthy after so long without a "
            "heartbeat", low=1, high=86_400, env=("SERVICE_HEALTH_TTL_SEC",)),
    Setting("node_ttl_sec", 15.0, "a node is lost, and its instances move, after so long without a "
            "word of its agent", low=1, high=86_400, env=("HEARTBEAT_TTL_SEC",)),
    Setting("artifact_bytes_max", 2 << 30, "how large an uploaded app may be", low=1,
            high=1 << 40),
    Setting("artifact_hosts", (), "hosts besides this daemon that an artifactUrl may name; it then "
            "needs a sha256"),
    Setting("stop_grace_sec", 10.0, "between the wish that work ends and its end by force",
            high=3_600),
    Setting("shutdown_sec", 10.0, "how long open requests may take when the daemon stops",
            high=3_600),
    Setting("retention_days", 30.0, "how long finished tasks and events are kept", low=0.001,
            high=36_500),
    Setting("run_retention_days", 365.0, "how long summaries of workflow runs are kept", low=0.001,
            high=36_500),
    Setting("logs_bytes_max", 10 << 30, "how much of what ended tasks printed is kept at most; the "
            "oldest hours go first", low=1 << 20),
    Setting("events_max", 10_000_000, "events that are kept at most", low=1_000),
    Setting("finished_tasks_max", 10_000_000, "finished tasks that are kept at most; the oldest "
            "go, runs of workflows whole", low=1),
    Setting("tasks_max", 10_000_000, "live tasks at most; beyond it submits get 429", low=1),
    Setting("connections_max", 20_000, "open connections at most", low=1, high=1_000_000),
    Setting("streams_max", 10_000, "open streams (SSE, workers) at most", low=1, high=1_000_000),
    Setting("log_level", "info", "what is logged",
            choices=("debug", "info", "warning", "error")),
    Setting("log_format", "text", "how it is logged", choices=("text", "json")),
)
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. origins: setting -> where its value came from."""

    listen: str
    grpc_listen: str
    unix_socket: str
    data_dir: str
    database: str
    trusted_networks: tuple[str, ...]
    host_names: tuple[str, ...]
    behind_proxy: bool
    node_id: str
    agent: bool
    os_process_slots: int
    service_slots: int
    outgoing_networks: tuple[str, ...]
    builtin_http_hosts: tuple[str, ...]
    service_health_ttl_sec: float
    node_ttl_sec: float
    artifact_bytes_max: int
    artifact_hosts: tuple[str, ...]
    stop_grace_sec: float
    shutdown_sec: float
    retention_days: float
    run_retention_days: float
    logs_bytes_max: int
    events_max: int
    finished_tasks_max: int
    tasks_max: int
    connections_max: int
    streams_max: int
    log_level: str
    log_format: str
    origins: dict[str, str] = {}

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) to listen on."""
        return split_address(self.listen)

    @property
    def database_path(self) -> Path:
        """Where the database file is."""
        return Path(self.database) if self.database else Path(self.data_dir) / "plum.db"

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The trusted networks."""
        return tuple(ipaddress.ip_network(text) for text in self.trusted_networks)


def split_address(text: str, setting: str = "listen") -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT or :PORT in parts. Raises: ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{setting}: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def load(flags: Mapping[str, Value | None], environ: Mapping[str, str],
         file: Path | None) -> Config:
    """Flag before environment before file before default; all of it checked.

    Raises: ConfigError.
    """
    known = {PREFIX + name.upper() for name in BY_NAME}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigError(f"the environment has {unknown[0]}, which is no setting")
    from_file = read_file(file) if file is not None else {}
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        raw, origin = find(setting, flags, environ, from_file, file)
        values[setting.name] = check(setting, raw, origin)
        origins[setting.name] = origin
    config = msgspec.convert({**values, "origins": origins}, Config)
    check_whole(config)
    return config


def read_file(path: Path) -> dict[str, object]:
    """A TOML file's settings. Raises: ConfigError for what is no setting."""
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for name in values:
        if name not in BY_NAME:
            raise ConfigError(f"{path}: {name} is no setting")
    return values


def find(setting: Setting, flags: Mapping[str, Value | None], environ: Mapping[str, str],
         from_file: Mapping[str, object], file: Path | None) -> tuple[object, str]:
    """(value, where it came from)."""
    flag = flags.get(setting.name)
    if flag is not None and flag != ():
        return flag, f"flag --{setting.name.replace('_', '-')}"
    for name in (PREFIX + setting.name.upper(), *setting.env):
        if environ.get(name):
            return environ[name], f"environment {name}"
    if setting.name in from_file:
        return from_file[setting.name], f"file {file}"
    return (setting.make(environ) if setting.make else setting.default), "default"


def check(setting: Setting, raw: object, origin: str) -> Value:
    """The value in its type and bounds. Raises: ConfigError."""
    kind = type(setting.default)
    problem = ConfigError(f"{setting.name} ({origin}): {raw!r} ")
    try:
        if kind is tuple:
            parts = raw.split(",") if isinstance(raw, str) else raw
            return tuple(text.strip() for text in msgspec.convert(parts, list[str])
                         if text.strip())
        if kind is bool and isinstance(raw, str):
            return {"true": True, "1": True, "yes": True,
                    "false": False, "0": False, "no": False}[raw.lower()]
        value: Value = msgspec.convert(raw, kind, strict=not isinstance(raw, str))
    except (msgspec.ValidationError, KeyError):
        problem.args = (problem.args[0] + f"is no {kind.__name__}",)
        raise problem from None
    if isinstance(value, int | float) and not setting.low <= value <= setting.high:
        problem.args = (problem.args[0] + f"is not in {setting.low:g} .. {setting.high:g}",)
        raise problem
    if setting.choices and value not in setting.choices:
        problem.args = (problem.args[0] + f"is none of {', '.join(setting.choices)}",)
        raise problem
    return value


def check_whole(config: Config) -> None:
    """What only several settings together can get wrong. Raises: ConfigError."""
    hosts = {"listen": config.address[0]}
    if config.grpc_listen:
        hosts["grpc_listen"] = split_address(config.grpc_listen, "grpc_listen")[0]
    for text in (*config.trusted_networks, *config.outgoing_networks):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError(f"networks: {error}") from None
    for setting, host in hosts.items():
        if not is_loopback(host) and not config.trusted_networks:
            raise ConfigError(
                f"{setting}: {host or 'every address'} is not loopback. Other machines may only "
                "come in from a network that you name: --trusted-networks 10.1.0.0/16. It opens "
                "the routes of workers, agents, devices and SDK clients, nothing else")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe(config: Config) -> str:
    """Every setting with its value and where that came from, as TOML."""
    lines = []
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        text = msgspec.json.encode(value).decode()
        lines.append(f"{setting.name} = {text}  # {config.origins[setting.name]}")
    return "\n".join(lines) + "\n"


def sample() -> str:
    """A sample file: every setting with its help and its default, commented out."""
    blocks = []
    for setting in SETTINGS:
        text = msgspec.json.encode(setting.default).decode()
        blocks.append(f"# {setting.help}\n# {setting.name} = {text}\n")
    return "\n".join(blocks)


def from_environment() -> Path | None:
    """The file that PLUM_CONFIG names."""
    name = os.environ.get("PLUM_CONFIG", "")
    return Path(name) if name else None
