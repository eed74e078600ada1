"""Known faults that are put into a copy of the code: each must be caught by the tests."""
