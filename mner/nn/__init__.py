"""Layers and losses without Lightning."""
