"""Fusion strategies: one file each, one paper each."""

from mner.fusion.base import FusionModule
from mner.fusion.text_only import TextOnly

__all__ = ["FusionModule", "TextOnly"]
