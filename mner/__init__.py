"""Multimodal named entity recognition: type the entities of a post, given its text, image and text about the image.

Public names are imported when first used, so that `import mner` is quick:

- `mner.fusion`: `FusionModule` and the strategies
- `mner.data`: readers, data modules
- `mner.CRF`, `mner.SpanF1`: layer and metric; `mner.nn`: further layers and losses
- `mner.Tagger`: a trained model on new posts
- `mner.analysis`: from predictions to tables and figures
- `mner.testing.check_fusion`: does a strategy of yours hold what ours hold?
"""

from __future__ import annotations

import lazy_loader

# The names are in the stub beside this file, where type checkers find them too; each is imported when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0.dev0"
