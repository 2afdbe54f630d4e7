"""`mner pretrain`: an encoder reads on, in posts without labels, by the objective that it was pretrained with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from mner.data.batching import BucketSampler
from mner.data.formats.posts import read_posts
from mner.data.loader import PostBatches
from mner.errors import CheckpointError, MNERError
from mner.files import locate, output_folder
from mner.training.optimisation import adamw, warmup_and_decay
from mner.training.trainer import Trainer

LAST = "last.ckpt"


class MaskedLanguageModel(pl.LightningModule):
    """transformers' masked language model, trained by its own loss: the masked pieces have to be found.

    Devlin et al. (2019); that it helps to go on with it in the texts of the task: Gururangan et al. (2020, ACL), "Don't
    stop pretraining".

    Args:
        model: An `AutoModelForMaskedLM`.
        learning_rate: Peak rate; it rises over the first 6 % of the steps and falls to 0.
        facts: What the run is of; its checkpoints say it, and those of another run are refused.
    """

    def __init__(self, model: Any, learning_rate: float, facts: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.learning_rate, self.facts = model.train(), learning_rate, facts

    @property
    def pretrained(self) -> list[torch.nn.Module]:
        """All of it learns at one rate."""
        return [self.model]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the run is of."""
        checkpoint["pretraining"] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run."""
        other = {name for name, value in self.facts.items() if checkpoint.get("pretraining", {}).get(name) != value}
        if other:
            raise CheckpointError(
                f"Expected to go on with the run that was begun there, but {', '.join(sorted(other))} differ; give the "
                "same, or another `out`"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The loss of a batch whose `labels` (b, t) are the masked pieces, and -100 elsewhere; None without any.

        Pieces are named where they are masked alone: a score for each of the vocabulary costs as much as all layers.
        """
        masked = batch["labels"] != -100
        if not masked.any():  # the mean of nothing is no number
            return None

        def keep_masked(encoder: Any, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[masked][None]
            return output

        hook = self.model.base_model.register_forward_hook(keep_masked)
        try:
            loss: Tensor = self.model(**{**batch, "labels": batch["labels"][masked][None]}).loss
        finally:
            hook.remove()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, and rates that rise and fall."""
        optimizer = adamw(self, self.learning_rate, self.learning_rate, 0.01)
        schedule = warmup_and_decay(optimizer, 0.06, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Alike(BucketSampler):
    """Batches of posts of similar length, in an order that is the epoch's alone, and so are masks and dropout after it.

    So a run that goes on at the beginning of an epoch has the same.
    """

    def __iter__(self) -> Iterator[list[int]]:
        torch.manual_seed(self.seed + self.epoch)  # of the masks, when the first batch is asked for
        yield from super().__iter__()


def _texts(places: Sequence[str]) -> list[str]:
    """Posts as running text, in any format that is read, each once."""
    posts = [post for place in places for post in read_posts(place)]
    texts = list(dict.fromkeys(" ".join(post.words) for post in posts))
    if not texts:
        raise MNERError(f"Expected posts to read, but there are none in {', '.join(places)}")
    return texts


def pretrain(
    posts: list[str],
    encoder: str,
    out: str,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    mask: float = 0.15,
    max_length: int = 128,
    seed: int = 0,
    accelerator: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true",
) -> None:
    """Train an encoder on in posts without labels, by masked language modelling; fine-tuning begins from the outcome.

    Stopped and called again with the same options, it goes on from the end of its last epoch. `--model.text_encoder
    OUT` loads what it wrote.

    Args:
        posts: Files or folders of posts, in any format that `mner` reads; tags are not looked at. Give no test posts.
        encoder: Hub name or folder of the model to begin from.
        out: The folder to write: weights, configuration and tokeniser; `.pretraining` in it is what a stopped
            run goes on from.
        epochs: How often each post is read.
        batch_size: Posts a step.
        learning_rate: Peak rate.
        mask: Part of the pieces that is to be found; of these 80 % are masked, 10 % another piece, 10 % as they are.
        max_length: Pieces of a post that are read.
        seed: Of masks and orders.
        accelerator: As for Lightning's Trainer.
        precision: What it computes in; `auto` is what the machine does best.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

    if epochs < 1 or batch_size < 1 or not 0 < mask < 1:
        raise MNERError(
            f"Expected `epochs` and `batch_size` of 1 or more and `mask` between 0 and 1, but got {epochs}, "
            f"{batch_size} and {mask}"
        )
    texts, folder = _texts(posts), locate(encoder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.mask_token is None:
        raise CheckpointError(f"Expected an encoder with a mask among its word pieces, but {encoder!r} has none")
    pl.seed_everything(seed, verbose=False)  # the layer that names pieces may begin at random
    model, loaded = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise CheckpointError(
            f"Expected a vector for each of the {len(tokenizer)} word pieces of {encoder!r}, but the model has "
            f"{model.get_input_embeddings().num_embeddings}"
        )
    base = model.base_model_prefix + "."
    if missing := sorted(key for key in loaded["missing_keys"] if key.startswith(base)):
        raise CheckpointError(f"The weights in {folder!r} leave {len(missing)} tensors random, such as {missing[0]!r}")
    facts = {
        "encoder": encoder,
        "posts": hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest(),
        "options": [epochs, batch_size, learning_rate, mask, max_length, seed, precision],
    }
    rows = [
        {"input_ids": row}
        for row in tokenizer(texts, truncation=True, max_length=max_length, verbose=False)["input_ids"]
    ]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask)
    sampler = _Alike(np.array([len(row["input_ids"]) for row in rows]), batch_size, shuffle=True, seed=seed)
    batches = PostBatches(sampler, batch_size)
    loader: Any = DataLoader(rows, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]
    with output_folder(Path(out)) as place:
        kept = Path(out) / ".pretraining"
        keep = ModelCheckpoint(kept, filename="last", enable_version_counter=False)
        machine: Any = {"accelerator": accelerator, "precision": precision}
        trainer = Trainer(max_epochs=epochs, logger=False, callbacks=[keep], **machine)
        begun = str(kept / LAST) if (kept / LAST).is_file() else None
        module = MaskedLanguageModel(model, learning_rate, facts)
        trainer.fit(module, loader, ckpt_path=begun, weights_only=True)
        model.base_model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    print(f"{len(texts)} posts, {epochs} epochs: {out}")
