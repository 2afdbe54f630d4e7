"""Layers and losses without Lightning: the CRF, attention, means over real entries, objectives, label distributions."""

from __future__ import annotations

import lazy_loader

# The names are in the stub beside this file, where type checkers find them too; each is imported when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
