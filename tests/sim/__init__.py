"""The daemon's heart in virtual time: engine, store and sessions for real, workers and faults by
seed. `python -m tests.sim 123` replays seed 123."""
