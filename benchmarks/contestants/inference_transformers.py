"""Inference with transformers' pipeline("token-classification") on raw text. One turn is all posts once."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, pipeline
from turns import parser_of, read_records, turn


def main() -> None:
    """Read the arguments, take turns."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    records = read_records(options.posts)
    names = sorted({tag for record in records for tag in record["tags"]}, key=lambda tag: (tag != "O", tag))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(options.encoder, num_labels=len(names), id2label=dict(enumerate(names)))
    weights = any(Path(options.encoder).glob("*.safetensors"))
    build = AutoModelForTokenClassification
    model = build.from_pretrained(options.encoder, config=config) if weights else build.from_config(config)
    with torch.no_grad():
        model.classifier.bias[0] += 2  # most words are no entities, as after training
    tagger = pipeline(
        "token-classification",
        model=model.float().eval(),
        tokenizer=AutoTokenizer.from_pretrained(options.encoder),
        aggregation_strategy="simple",
        batch_size=options.batch,
        device="cpu",
    )
    texts = [" ".join(record["words"]) for record in records]
    turn()
    while True:
        entities = [len(found) for found in tagger(texts)]
        turn(posts=len(entities), entities=sum(entities))


if __name__ == "__main__":
    main()
