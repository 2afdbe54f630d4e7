"""Tests of `mner/data/`."""
