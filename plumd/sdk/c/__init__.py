"""The C and C++ SDK: plum.h, plum.c, plum.hpp. `python -m plumd.sdk.c` prints where they are."""
