"""Analyses of predictions."""
