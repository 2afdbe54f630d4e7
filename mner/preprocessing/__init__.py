"""Passes over images or texts, each making what training reads."""
