"""Tests of `mner/nn/`."""
