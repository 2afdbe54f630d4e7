"""Table 2: the posts that were analysed, and the training posts, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mner.data.batch import Example
from mner.data.statistics import split_statistics

if TYPE_CHECKING:
    from pandas import DataFrame


def data_table(splits: Mapping[str, Sequence[Example]]) -> DataFrame:
    """One row a split: posts, lengths, entities in all and by type, malformed tags, fingerprint of the labels."""
    import pandas as pd

    found = {name: split_statistics(examples) for name, examples in splits.items()}
    types = sorted({type_ for split in found.values() for type_ in split.lenient})
    others = ("posts", "without entity", "entities", "fingerprint")  # a type may have such a name
    rows = {
        name: {
            "posts": split.posts,
            "without entity": split.without_entity,
            "words, mean": split.mean_words,
            "words, most": split.max_words,
            "characters, mean": split.mean_characters,
            "entities": sum(split.lenient.values()),
            **{f"type {type_}" if type_ in others else type_: split.lenient.get(type_, 0) for type_ in types},
            "stray I-": split.stray,
            "fingerprint": split.fingerprint,
        }
        for name, split in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")
