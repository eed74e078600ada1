"""The program `plum`: a client of the HTTP API like any other.

Exit codes: 0 done, 1 the task or run that was waited for did not succeed, 2 a wrong call or
value, 3 not found, 4 not allowed, 5 conflict, 6 the daemon cannot be reached or takes no requests,
74 the output cannot be written, 124 waiting took too long, 130 Ctrl-C, 141 the reader of the
output is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

import plumd
import plumd.cli.lean  # before all that asks for httpx
from plumd.cli import (
    alarms,
    apps,
    brokers,
    definitions,
    deployments,
    devices,
    instances,
    kv,
    locks,
    nodes,
    run_steps,
    schedules,
    simulate,
    system,
    tasks,
    triggers,
    webhooks,
    workers,
)
from plumd.cli.session import PlumGroup, Session
from plumd.sdk.client import ProblemError, UnreachableError, WaitTimeoutError

USAGE: Final = 2
NOT_FOUND: Final = 3
DENIED: Final = 4
CONFLICT: Final = 5
UNAVAILABLE: Final = 6
CANNOT_WRITE: Final = 74     # EX_IOERR
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


@click.group(cls=PlumGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(plumd.__version__, prog_name="plum")
def plum() -> None:
    """Plum's command line: tasks, workflows, schedules, workers, services, devices and keys.

    Wherever a value is JSON, @FILE reads it from a file and - from stdin.
    """


for noun in (tasks.group, definitions.group, simulate.group, run_steps.runs, schedules.group,
             schedules.calendars, triggers.group, webhooks.group, brokers.group, workers.workers,
             workers.services, devices.group, alarms.group, kv.group, locks.group, nodes.group,
             apps.group, deployments.group, instances.group,
             system.events, system.status, system.stats, system.support_bundle,
             system.completion):
    plum.add_command(noun)


def main() -> None:
    """The entry point."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:      # whoever started us had closed it
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    sys.exit(carry_out(sys.argv[1:]))


def carry_out(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    session = Session()
    try:
        code: object = plum.main(list(arguments), prog_name="plum", standalone_mode=False,
                                 obj=session)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return leave_pipe()
    except OSError as error:    # a full disk, no such place: the client has its own errors
        session.screen.complain(f"{error.filename or 'the output'}: {error.strerror}")
        leave_pipe()
        return CANNOT_WRITE
    except ProblemError as problem:
        session.screen.complain(str(problem))
        return code_of(problem)
    except UnreachableError as error:
        session.screen.complain(f"{error}; does plumd run there? --server or PLUM_SERVER names "
                                "another one")
        return UNAVAILABLE
    except WaitTimeoutError as error:
        session.screen.complain(str(error))
        return TIMED_OUT
    except SystemExit as leaving:
        # Click ends the program itself when the reader of its output is gone, and after completion.
        return leave_pipe() if leaving.code == 1 else 0
    finally:
        session.close()
    return code if isinstance(code, int) else 0


def code_of(problem: ProblemError) -> int:
    """The exit code of a refusal."""
    if problem.code == "idempotency_key_reused":
        return CONFLICT
    by_status = {401: DENIED, 403: DENIED, 404: NOT_FOUND, 409: CONFLICT, 412: CONFLICT}
    if problem.status == 429 or problem.status >= 500:
        return UNAVAILABLE
    return by_status.get(problem.status, USAGE)


def leave_pipe() -> int:
    """Nobody reads any more: whatever is still in the buffer goes nowhere, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
