"""The loop of transformers' own token-classification example (run_ner_no_trainer.py). One turn is one step.

AutoModelForTokenClassification, word-aligned labels on first pieces, padding to a fixed length (`--pad_to_max_length`)
or to the longest of a random batch, DataCollatorForTokenClassification, torch's AdamW with its linear schedule.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    get_scheduler,
)
from turns import parser_of, read_records, turn


def encoded(tokenizer: Any, records: list[dict[str, Any]], index: dict[str, int], length: int, pad: bool) -> list[Any]:
    """Tokenised posts with labels on the first piece of each word, as the example makes them."""
    rows = []
    for record in records:
        row = tokenizer(
            record["words"],
            max_length=length,
            padding="max_length" if pad else False,
            truncation=True,
            is_split_into_words=True,
        )
        words = row.word_ids()
        before = [None, *words[:-1]]
        row["labels"] = [
            -100 if word is None or word == last else index[record["tags"][word]]
            for word, last in zip(words, before, strict=True)
        ]
        rows.append(row)
    return rows


def main() -> None:
    """Read the arguments, train."""
    parser = parser_of(__doc__)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dynamic", action="store_true", help="pad to the longest of each batch")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    records = read_records(options.posts)
    names = sorted({tag for record in records for tag in record["tags"]})
    index = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    rows = encoded(tokenizer, records, index, options.length, not options.dynamic)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(options.encoder, num_labels=len(names))
    weights = any(Path(options.encoder).glob("*.safetensors"))
    build = AutoModelForTokenClassification
    model = build.from_pretrained(options.encoder, config=config) if weights else build.from_config(config)
    model.float().train()
    collator = DataCollatorForTokenClassification(
        tokenizer, padding="longest" if options.dynamic else "max_length", max_length=options.length
    )
    loader = DataLoader(rows, shuffle=True, collate_fn=collator, batch_size=options.batch)
    undecayed = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if not any(u in n for u in undecayed)],
            "weight_decay": 0.01,
        },
        {"params": [p for n, p in model.named_parameters() if any(u in n for u in undecayed)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-5)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=10_000)
    turn()
    while True:
        for batch in loader:
            outputs = model(**batch)
            outputs.loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            mask = batch["attention_mask"]
            turn(posts=len(mask), real=int(mask.sum()), padded=mask.numel())


if __name__ == "__main__":
    main()
