"""Encoders of texts and of images; also of regions, words and characters."""
