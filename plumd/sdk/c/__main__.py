"""Prints the directory of plum.h, for `cc -I`."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
