"""Measures plumd from outside: the daemon, its workers and the clients are separate processes."""
