"""Transformers' own token-classification example (run_ner_no_trainer.py), trained to the best epoch on valid.

AutoModelForTokenClassification with labels on first pieces, batches padded to their longest, AdamW with weight decay
.01 and a linear schedule without warm-up, as in the example. --precision bf16-mixed is the same under autocast, as
`accelerate` has it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from epochs import Tags, options_of, read, run
from torch.utils.data import DataLoader
from training_transformers import encoded
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    get_scheduler,
)

LENGTH = 128


def main() -> None:
    """Read the arguments, train."""
    options = options_of(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(options.seed)
    records = read(Path(options.train))
    names = sorted({tag for record in records for tag in record["tags"]} | {"O"})
    index = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    config = AutoConfig.from_pretrained(options.encoder, num_labels=len(names))
    build = AutoModelForTokenClassification
    weights = any(Path(options.encoder).glob("*.safetensors"))
    model = build.from_pretrained(options.encoder, config=config) if weights else build.from_config(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.float().to(device)
    collate = DataCollatorForTokenClassification(tokenizer, padding="longest")
    loader = DataLoader(
        encoded(tokenizer, records, index, LENGTH, False), shuffle=True, collate_fn=collate, batch_size=options.batch
    )
    named = [(name, p) for name, p in model.named_parameters()]
    plain = [any(part in name for part in ("bias", "LayerNorm.weight")) for name, _ in named]
    groups = [
        {"params": [p for (_, p), bare in zip(named, plain, strict=True) if bare == wanted], "weight_decay": decay}
        for wanted, decay in ((False, 0.01), (True, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.rate)
    schedule = get_scheduler("linear", optimizer, 0, options.epochs * len(loader))

    def lower() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16-mixed")

    def epoch() -> None:
        model.train()
        for batch in loader:
            with lower():
                loss = model(**batch.to(device)).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def tag(posts: list[dict[str, Any]]) -> Tags:
        model.eval()
        found: Tags = []
        for start in range(0, len(posts), options.batch):
            rows = [post["words"] for post in posts[start : start + options.batch]]
            batch = tokenizer(
                rows, is_split_into_words=True, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
            )
            with torch.no_grad(), lower():
                best = model(**batch.to(device)).logits.argmax(-1).tolist()
            for number, words in enumerate(rows):
                tags = ["O"] * len(words)  # words that were cut off, or have no pieces, stay O
                ids = batch.word_ids(number)
                for place, word in reversed(list(enumerate(ids))):
                    if word is not None:
                        tags[word] = names[best[number][place]]
                found.append(tags)
        return found

    run(options, epoch, tag)


if __name__ == "__main__":
    main()
