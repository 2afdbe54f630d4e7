"""Running a trained model over posts outside the Trainer: predictions, and the emissions of any text with any image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mner.batch import Batch
from mner.data.batching import Collate
from mner.data.datamodules.base import MNERDataModule
from mner.data.dataset import Item, MNERDataset
from mner.data.examples import Example
from mner.data.formats.predictions import Prediction
from mner.data.windows import whole_posts
from mner.fusion.base import FusionModule


class Runner:
    """A model in evaluation mode and the prepared posts of one split.

    Args:
        model: The trained model.
        data: Its data; `data.batch_size` posts go into a batch.
        dataset: The posts, as `data` prepared them.
        device: Where the model runs.
    """

    def __init__(self, model: FusionModule, data: MNERDataModule, dataset: MNERDataset, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self.data = data
        data.serve(model)
        self.dataset = dataset
        self.device = device

    def variant(self, examples: Sequence[Example]) -> MNERDataset:
        """Other posts, prepared in the same way."""
        known, data = self.dataset, self.data
        return MNERDataset(
            examples, data.labels, data.post_tokenizer, known.open_image, known.transform, known.regions,
            inputs=data.post_inputs(),
        )  # fmt: skip

    @torch.no_grad()
    def predict(self, dataset: MNERDataset, change: Callable[[Batch], Batch] | None = None) -> list[Prediction]:
        """The predictions of posts, in their order.

        Args:
            dataset: The posts.
            change: Done to each batch before the model sees it.
        """
        collate = self.collate(dataset)
        found: dict[int, Prediction] = {}
        order = np.argsort(dataset.lengths, kind="stable")
        for start in range(0, len(order), self.data.eval_batch_size):
            places = order[start : start + self.data.eval_batch_size].tolist()
            batch = collate([dataset[place] for place in places])
            batch = to_device(batch if change is None else change(batch), self.device)
            found.update(zip(places, self.model.predict_step(batch, 0), strict=True))
        return [found[place] for place in range(len(dataset))]

    @torch.no_grad()
    def decode(self, emissions: Sequence[NDArray[Any]]) -> list[list[str]]:
        """The best tags of each post under the model's CRF, from its emissions (w, l)."""
        tags: list[list[str]] = []
        labels = self.model.labels
        for start in range(0, len(emissions), self.data.eval_batch_size):
            part = emissions[start : start + self.data.eval_batch_size]
            lengths = [len(post) for post in part]
            padded = torch.zeros(len(part), max(lengths), len(labels))
            for row, post in enumerate(part):
                padded[row, : len(post)] = torch.as_tensor(post, dtype=torch.float32)
            mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
            batch = to_device(Batch(word_mask=mask), self.device)
            paths = self.model.decode(padded.to(self.device), batch)
            tags += [[labels[label] for label in path] for path in paths]
        return tags

    def pairs(self, images: bool, context: bool) -> PairEmissions:
        """The emissions of text i with the image, the context, or both, of post j."""
        return PairEmissions(self, images, context)

    def collate(self, dataset: MNERDataset) -> Collate:
        """What makes batches of the posts."""
        return self.data.collate(dataset)


class PairEmissions:
    """`emissions(texts, images)` for `additive_projection`: each text with each image, which is encoded once.

    Args:
        runner: The model and the posts.
        images: Take the image from the second post of a pair, else from the first.
        context: Take the context from the second post of a pair, else from the first.
    """

    def __init__(self, runner: Runner, images: bool, context: bool) -> None:
        self.runner = runner
        self.images = images
        self.context = context
        model = runner.model
        width = model.region_width if model.uses_image else None
        whole = runner.collate(runner.dataset)
        self.collate = Collate(whole.pad_id, None, width, whole.needs)
        self._cells = whole.cells
        self._kept: dict[int, dict[str, Any]] = {}
        # Where a strategy keeps the base's way from words to emissions, a text too is encoded once.
        kind = type(model)
        kept = all(getattr(kind, name) is getattr(FusionModule, name) for name in ("encode", "emissions", "posterior"))
        self.separate = not context and kept

    @torch.no_grad()
    def __call__(self, texts: Sequence[int], images: Sequence[int]) -> list[NDArray[np.float32]]:
        """Emissions (w, l) of each pair."""
        runner, model = self.runner, self.runner.model
        dataset = runner.dataset
        if self.context:
            posts = dataset.examples
            dataset = runner.variant(
                [replace(posts[i], context=posts[j].context, image_id=None) for i, j in zip(texts, images, strict=True)]
            )
            items = [dataset[row] for row in range(len(texts))]
        else:
            text_of = {text: self._text_item(text) for text in dict.fromkeys(texts)}
            items = [cast(Item, dict(text_of[text])) for text in texts]
        for item, text, image in zip(items, texts, images, strict=True):
            known: Any = self.of_image(image if self.images else text)
            item.update(known)
        batch = to_device(self.collate(items), runner.device)
        if self.separate and len(set(texts)) == 1 and "windows" not in batch:
            first = cast(Batch, {name: cast(Any, value)[:1] for name, value in batch.items()})
            words = model.encode(first).expand(len(texts), -1, -1)
            emissions = model.emit(words, batch["word_mask"], *model.regions(batch))
        else:
            emissions, batch = whole_posts(model.label_scores(batch), batch)
        found = emissions.float().cpu().numpy()
        return [found[row, : len(words)] for row, words in enumerate(batch["words"])]

    def of_image(self, post: int) -> dict[str, Any]:
        """What an item has from a post's image: its raw regions (r, f) and what is needed of them; kept."""
        if post not in self._kept:
            item, encoder = self.runner.dataset[post], getattr(self.runner.model, "image_encoder", None)
            known = {key: item.get(key) for key in ("regions", "boxes", "scores", "groups")}
            known |= {key: item[key] for key in ("object_names", "relation") if key in item}
            image, there = item["image"], item["image_mask"]
            if image is not None and encoder is not None:
                several = image if there is None else image[torch.from_numpy(there)]
                images = several.view(-1, *several.shape[-3:])  # (n, 3, s, s)
                made = encoder(images.to(self.runner.device)).flatten(0, 1).float().cpu().numpy()
                numbers = np.arange(1) if there is None else np.flatnonzero(there)
                known |= {
                    "regions": made,
                    "boxes": np.tile(self._cells, (len(made) // len(self._cells), 1)),
                    "scores": np.ones(len(made), np.float32),
                    "groups": np.repeat(numbers, len(made) // len(numbers)),
                }
            self._kept[post] = {"image": None, "image_mask": None, **known}
            if not self.runner.model.uses_image:
                self._kept[post]["regions"] = None
        return self._kept[post]

    def _text_item(self, text: int) -> Item:
        # Without opening its image, which `regions` does once for all texts.
        dataset = self.runner.dataset
        open_image, dataset.open_image = dataset.open_image, None
        try:
            return dataset[text]
        finally:
            dataset.open_image = open_image


def to_device(batch: Batch, device: str) -> Batch:
    """The batch with its tensors on `device`."""
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return cast(Batch, moved)
