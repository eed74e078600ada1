"""The Python SDK: `from plumd.sdk import Worker`."""

from plumd.sdk.handlers import Canceled, Context, TaskFailed
from plumd.sdk.talk import TurnedAway
from plumd.sdk.worker import Worker

__all__ = ["Canceled", "Context", "TaskFailed", "TurnedAway", "Worker"]
