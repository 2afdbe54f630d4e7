"""Inference with mner: the evaluation loop on posts of words, or `Tagger` on raw text. One turn is all posts once."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from turns import parser_of, read_records, turn

from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly
from mner.tagger.tagger import Tagger


def main() -> None:
    """Read the arguments, take turns."""
    parser = parser_of(__doc__)
    parser.add_argument("--loop", action="store_true", help="the evaluation loop")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    records = read_records(options.posts)
    posts = [Example(str(number), None, tuple(r["words"]), tuple(r["tags"])) for number, r in enumerate(records)]
    found = {tag for post in posts for tag in post.tags or ()} | {"O"}
    labels = sorted(found, key=lambda tag: (tag != "O", tag[2:], tag))
    torch.manual_seed(0)
    model = TextOnly(labels, text_encoder=options.encoder)
    with torch.no_grad():
        model.head.bias[0] += 2  # most words are no entities, as after training
    tokenizer = PostTokenizer(options.encoder, max_length=128)
    if not options.loop:
        tagger = Tagger(model, tokenizer=tokenizer, batch_size=options.batch, device="cpu", words="twitter2017")
        texts = [" ".join(record["words"]) for record in records]
        turn()
        while True:
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                entities = [len(tagged) for tagged in tagger(texts)]
            turn(posts=len(entities), entities=sum(entities))
    dataset = MNERDataset(posts, labels, tokenizer)
    loader: Any = DataLoader(
        dataset,
        batch_sampler=BucketSampler(dataset.lengths, options.batch, shuffle=False),
        collate_fn=Collate(tokenizer.pad_id),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed" if options.bf16 else "32-true",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    turn()
    while True:
        trainer.validate(model, loader, verbose=False)
        turn(posts=len(posts))


if __name__ == "__main__":
    main()
