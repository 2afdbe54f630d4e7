"""Hugging Face data sets in and out: tables, posts, images."""
