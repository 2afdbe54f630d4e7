"""Fusion strategies."""
