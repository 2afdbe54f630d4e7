"""Encoders: text, images, regions, characters."""
