"""Tests of `mner/encoders/`."""
