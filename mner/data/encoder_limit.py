"""How many pieces a text encoder takes, by its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mner.files import locate


def encoder_limit(config: Mapping[str, Any]) -> int | None:
    """Most pieces of a text encoder by its configuration; for a model that is there, `TextEncoder.piece_limit` says it.

    >>> encoder_limit({"model_type": "roberta", "max_position_embeddings": 130, "pad_token_id": 1})
    128
    """
    places = config.get("max_position_embeddings")
    if not isinstance(places, int) or places < 1:
        return None
    begins_behind_padding = config.get("model_type") in _BEHIND_PADDING
    return places - (int(config.get("pad_token_id") or 0) + 1) * begins_behind_padding


def encoder_config(encoder: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a text encoder that is given by it, or by a folder; of one elsewhere nothing is known."""
    if not isinstance(encoder, str):
        return encoder
    path = Path(locate(encoder)) / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config


_BEHIND_PADDING = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod", "data2vec-text"),
    *("longformer", "mpnet", "ibert", "luke", "markuplm"),
)
"""Kinds of models that count positions from behind the padding index."""
