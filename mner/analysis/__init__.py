"""Analyses of predictions: pure functions from prediction files to tables (pandas) and figures (matplotlib).

pandas and matplotlib are imported when a function needs them.
"""

from __future__ import annotations

import lazy_loader

# The names are in the stub beside this file, where type checkers find them too; each is imported when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
