"""Plum: distributed task orchestration and scheduling in one lean daemon."""

__version__ = "0.1.0"
