"""The daemon under load, killed again and again, and an auditor who believes nobody."""
