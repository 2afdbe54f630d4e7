"""AdaSeq's sequence labeller, trained with its own parts, to the best epoch on valid.

As in the configs of its `bert_crf` example: first pieces, word dropout .1, a CRF that learns at 5e-1 whatever the
encoder's rate is, AdamW, rates falling to 0 without warm-up (here by steps, there by epochs), tags in BIOES. Its
trainer, which is ModelScope's, is not run: it keeps checkpoints, and writes no predictions of the best epoch on valid.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch
from adaseq.data.data_collators.sequence_labeling_data_collator_with_padding import (
    SequenceLabelingDataCollatorWithPadding,
)
from adaseq.data.preprocessors.sequence_labeling_preprocessor import SequenceLabelingPreprocessor
from adaseq.models.sequence_labeling_model import SequenceLabelingModel
from adaseq.training.optimizer import build_optimizer
from epochs import Tags, entities, options_of, read, run
from modelscope.utils.config import ConfigDict
from transformers import get_scheduler

LENGTH = 150


def main() -> None:
    """Read the arguments, train."""
    options = options_of(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    records = read(Path(options.train))
    types = sorted({type_ for record in records for _, _, type_ in entities(record["tags"])})
    prepare: Any = SequenceLabelingPreprocessor(options.encoder, labels=types, max_length=LENGTH, mode="train")
    collate: Any = SequenceLabelingDataCollatorWithPadding(prepare.tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = ConfigDict(type="transformer-embedder", model_name_or_path=options.encoder, drop_special_tokens=True)
    parts: Any = {"id_to_label": prepare.id_to_label, "embedder": embedder}  # by name: AdaSeq's classes take no others
    model: Any = SequenceLabelingModel(**parts, dropout=0.1, word_dropout=True, use_crf=True).to(device)
    optimizer: Any = build_optimizer(
        model, ConfigDict(type="AdamW", lr=options.rate, param_groups=[{"regex": "crf", "lr": 0.5}])
    )
    posts = [prepare(as_read(record)) for record in records]
    schedule = get_scheduler("linear", optimizer, 0, options.epochs * -(-len(posts) // options.batch))

    def inputs(rows: list[Any]) -> Any:
        batch = collate(rows)
        batch.to(device)  # returns nothing
        return batch

    def epoch() -> None:
        model.train()
        random.shuffle(posts)
        for start in range(0, len(posts), options.batch):
            model(**inputs(posts[start : start + options.batch]))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def tag(given: list[dict[str, Any]]) -> Tags:
        model.eval()
        found: Tags = []
        for start in range(0, len(given), options.batch):
            rows = given[start : start + options.batch]
            read_so = [prepare({"tokens": row["words"], "spans": []}) for row in rows]  # it does not batch without tags
            with torch.no_grad():
                best = model(**inputs(read_so))["predicts"].tolist()
            for row, ids in zip(rows, best, strict=True):
                names = [prepare.id_to_label[number] for number in ids[: len(row["words"])]]
                names += ["O"] * (len(row["words"]) - len(names))  # words that were cut off
                found.append([name.replace("S-", "B-").replace("E-", "I-") for name in names])
        return found

    run(options, epoch, tag)


def as_read(record: dict[str, Any]) -> dict[str, Any]:
    """A post as AdaSeq's readers give it."""
    spans = [{"start": start, "end": end, "type": type_} for start, end, type_ in sorted(entities(record["tags"]))]
    return {"tokens": record["words"], "spans": spans}


if __name__ == "__main__":
    main()
