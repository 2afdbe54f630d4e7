"""A few posts of the sample data as batches with every input that there is, for trying out a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from mner.data.batching import Collate
from mner.data.datamodules.sample import SampleDataModule
from mner.data.dataset import Item, MNERDataset
from mner.data.examples import Example
from mner.data.formats.images import ImageFolder
from mner.data.sample.texts import write_sample
from mner.data.transforms import transform_for

Fields = dict[str, Any]
"""A `Batch`, whose fields are changed by name."""

Images = Literal["given", "missing", "absent"]
"""`missing`: no post has an image; `absent`: nor has the batch any field for them."""

ONE_WORD, NO_IMAGE, NO_ENTITY = 1, 2, 3
"""Rows of the six posts that are special."""

BY_REGION = ("regions", "region_mask", "region_boxes", "region_scores", "region_group")
"""Fields (b, r, ...)."""

_THINGS = ("person", "dog", "old car", "tree")


class SampleBatches:
    """Six posts: of one word, without image, without entities, and three ordinary ones; all but one have a caption.

    Args:
        text_encoder: Whose tokeniser to use.
        image_encoder: timm model that the drawn images are prepared for; None for stored regions, random numbers.
        region_width: f of the stored regions, of which a post has one to four.
        needs: Inputs beyond regions: boxes, scores, object_names, relation, groups, which are made up, and contexts.

    Attributes:
        labels: The BIO labels.
        posts: The six posts.
        size: s, the side of the images; None without.
        cells: r of the images, on which the shapes of what is needed depend; set it where there are images.

    Raises:
        ValueError: If `needs` names something else.

    >>> SampleBatches(needs={"boxes"})([0, 1])["region_boxes"].shape
    torch.Size([2, 2, 4])
    """

    def __init__(
        self,
        text_encoder: str | dict[str, Any] = "tiny",
        image_encoder: str | None = None,
        region_width: int = 12,
        needs: Iterable[str] = (),
    ) -> None:
        self.needs, self.cells = sorted(needs), 1
        transform = None if image_encoder is None else transform_for(image_encoder)
        self.size = None if transform is None else transform.size
        sources = ["captions.jsonl", *(["tags.jsonl"] if "contexts" in self.needs else [])]
        with TemporaryDirectory() as folder:
            data = _FewPosts(f"{folder}/sample", text_encoder=text_encoder, context=sources)
            self.labels = data.labels
            self.posts = _choose(data.examples("train"))
            generator = np.random.default_rng(0)
            stored = {
                str(post.image_id): generator.normal(size=(row % 4 + 1, region_width)).astype(np.float32)
                for row, post in enumerate(self.posts)
            }
            dataset = MNERDataset(
                self.posts,
                self.labels,
                data.post_tokenizer,
                open_image=ImageFolder(data.root / "images").open if transform else None,
                transform=transform,
                regions=None if transform else stored,
            )
            self._items: list[Item] = [dataset[row] for row in range(len(dataset))]
        shape = None if self.size is None else (3, self.size, self.size)
        real = frozenset(self.needs) & {"contexts"}
        self._collate = Collate(data.post_tokenizer.pad_id, shape, None if transform else region_width, real)
        self._add_needed({}, torch.zeros(0, 1, dtype=torch.bool), [])  # refuses unknown names now

    def __call__(self, rows: Sequence[int] = range(6), images: Images = "given") -> Fields:
        """The posts in these rows as a batch."""
        items = [self._items[row] for row in rows]
        if images != "given":
            items = [Item(**{**item, "image": None, "regions": None}) for item in items]
        batch: Fields = dict(self._collate(items))
        if images == "absent":
            batch = {name: value for name, value in batch.items() if name not in ("image", *BY_REGION)}
        mask = batch.get("region_mask")
        if mask is None:
            mask = batch["has_image"][:, None].expand(-1, self.cells if "image" in batch else 1)
        self._add_needed(batch, mask, rows)
        return batch

    def _add_needed(self, batch: Fields, mask: torch.Tensor, rows: Sequence[int]) -> None:
        """Made up for each post by its row, whatever posts are beside it."""
        r = mask.shape[1]
        made = torch.zeros(*mask.shape, 5)
        for at, row in enumerate(rows):
            made[at] = torch.from_numpy(np.random.default_rng(row).random((r, 5), np.float32))
        made[..., :4] = made[..., :4].view(*mask.shape, 2, 2).sort(-2).values.flatten(-2)  # x, y of two corners
        made.masked_fill_(~mask[..., None], 0.0)
        for need in self.needs:
            if need == "boxes":
                batch["region_boxes"] = made[..., :4]
            elif need == "scores":
                batch["region_scores"] = made[..., 4]
            elif need == "groups":
                batch["region_group"] = (torch.arange(r) // 2).expand(mask.shape).masked_fill(~mask, 0)
            elif need == "relation":  # of one post it is not known
                batch["relation"] = torch.tensor([float("nan") if row == 4 else (row + 1) / 7 for row in rows])
            elif need == "object_names":
                real = zip(rows, mask.tolist(), strict=True)
                batch["object_names"] = [
                    [_THINGS[(row + at) % 4] if there else "" for at, there in enumerate(regions)]
                    for row, regions in real
                ]
            elif need != "contexts":
                raise ValueError(
                    "Expected `needs` to name some of boxes, scores, object_names, relation, groups, contexts, but got "
                    f"{need!r}"
                )


def padded(batch: Fields, field: Literal["words", "word pieces", "regions"]) -> Fields:
    """The batch with three more of something, all of it padding, with content that must not be read."""
    contents: dict[str, dict[str, float]] = {
        "words": {"word_starts": 0, "word_ends": 0, "word_mask": 0, "tags": 0},
        "word pieces": {"token_ids": 1, "token_mask": 0, "segment_ids": 1, "context_ids": 1},
        "regions": {"regions": 100, "region_mask": 0, "region_boxes": 1, "region_scores": 1, "region_group": 1},
    }
    wider = dict(batch)
    for name, content in contents[field].items():
        if name in batch:
            more = batch[name][:, :1].expand(-1, 3, *batch[name].shape[2:])
            wider[name] = torch.cat([batch[name], torch.full_like(more, content)], 1)
    if field == "regions" and "object_names" in batch:
        wider["object_names"] = [[*names, "", "", ""] for names in batch["object_names"]]
    return wider


def rearranged(batch: Fields, order: Literal["regions", "posts"]) -> Fields:
    """The batch with each post's regions turned round, or with the images of other posts; with all that they bring."""
    other = dict(batch)
    for name in ("image", *BY_REGION):
        if name in batch and (order == "posts" or name != "image"):
            other[name] = batch[name].flip(1) if order == "regions" else batch[name].roll(1, 0)
    if "object_names" in batch:
        names = batch["object_names"]
        other["object_names"] = [each[::-1] for each in names] if order == "regions" else names[-1:] + names[:-1]
    return other


class _FewPosts(SampleDataModule):
    """The sample data, so few of them that they are written in no time."""

    def prepare_data(self) -> None:
        write_sample(self.root, 30, 1, 1)


def _choose(posts: Sequence[Example]) -> list[Example]:
    some = [post for post in posts if "B-" in " ".join(post.tags or ())]
    empty = next(post for post in posts if set(post.tags or ()) == {"O"})
    one_word = Example("one word", some[1].image_id, ("Quillon",), ("B-PER",), some[1].context)
    return [some[0], one_word, replace(some[2], image_id=None, context=()), empty, *some[3:5]]
