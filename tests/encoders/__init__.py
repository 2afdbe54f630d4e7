"""Tests of mner.encoders."""
