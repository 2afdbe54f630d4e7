"""Passes over a folder of images or texts, each making what training reads."""
