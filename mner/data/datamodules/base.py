"""`MNERDataModule`: from a folder of posts to batches. Data sets differ only in their entity types and layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from mner.batch import Batch
from mner.data.agreement import serve
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example, Split, fingerprint
from mner.data.formats.context import Texts
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder, ImageSource
from mner.data.formats.posts import read_posts
from mner.data.loader import post_loader
from mner.data.sources import (
    check_types,
    find_images,
    find_place,
    find_splits,
    read_source,
    refuse_overlap,
    report_images,
    training_posts,
    with_context,
)
from mner.data.tokenizer import PostTokenizer
from mner.data.transforms import transform_for
from mner.errors import DataNotFoundError
from mner.labels import bio_labels

log = logging.getLogger(__name__)


class MNERDataModule(pl.LightningDataModule):
    """Posts of one data set as batches.

    Args:
        root: Folder with `train.txt`, `valid.txt`, `test.txt` (or `.jsonl`, or the Snapchat layout; see the docs).
        batch_size: Posts in a batch of one device.
        eval_batch_size: The same for evaluation; None for `batch_size`.
        num_workers: Processes that prepare batches.
        text_encoder: Whose tokeniser to use; None for that of the model that is trained or evaluated (`"tiny"` as long
            as there is none).
        tokenizer: Name or folder of the tokeniser where the text encoder comes without one (VisualBERT on the Hub).
        max_length: Most word pieces of post and context together; None for the tokeniser's own limit.
        replace_urls: Word that stands for every URL, or None to leave URLs as they are.
        images: Folder of images (absolute, or below `root`), or None for none.
        image_encoder: timm model whose transform the images get; the command line takes it from the model.
        image_size: Pixels of a side; None for the image encoder's own.
        features: Folder of stored features (`mner features`), in place of `images`.
        context: Files of texts by image or post id, each a second segment in this order. A pattern such as
            `captions/*.json` joins the files that it matches into one source. Relative to `root`, or absolute.
        context_dropout: Probability that a training post is shown without context.
        train_fraction: Part of the training posts to use, for learning curves; the subsets of one seed are nested.
        repair_iob: `"i_to_b"` makes a stray `I-` in the training split a `B-`; valid and test are never changed.
        seed: Of shuffling and of the training subset; None for that of `seed_everything`, or else 0.

    Attributes:
        labels: The BIO labels, `O` first.
        datasets: The splits that were set up, by name.
        fingerprints: Of the labels of the splits that were read, by name.
        broken_images: Ids of images whose files turned out not to be readable; known once they were used.
    """

    types: ClassVar[Sequence[str]] = ()
    overlap_advice: ClassVar[str] = "`mner data verify` lists them; take them out of one of the two."
    labels: list[str]

    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        text_encoder: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_length: int | None = None,
        replace_urls: str | None = None,
        images: str | None = None,
        image_encoder: str | None = None,
        image_size: int | None = None,
        features: str | None = None,
        context: list[str] | None = None,
        context_dropout: float = 0.0,
        train_fraction: float = 1.0,
        repair_iob: Literal["none", "i_to_b"] = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if images is not None and features is not None:
            raise ValueError("Expected `images` or `features`, but got both; stored features replace images")
        if images is not None and image_encoder is None:
            raise ValueError(
                f"Got images={images!r} without `image_encoder`; name the timm model that is to see them "
                "(model.image_encoder on the command line), or leave `images` out"
            )
        if not 0 < train_fraction <= 1:
            raise ValueError(f"Expected `train_fraction` above 0 and up to 1, but got {train_fraction}")
        self.root = Path(root)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.replace_urls = replace_urls
        self.images = images
        self.image_encoder = image_encoder
        self.image_size = image_size
        self.features = features
        self.context = list(context or [])
        self.context_dropout = context_dropout
        self.train_fraction = train_fraction
        self.repair_iob = repair_iob
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        if not hasattr(self, "labels"):
            self.labels = bio_labels(self.types)
        self.predict_split: Split = "test"
        self.datasets: dict[str, MNERDataset] = {}
        self.fingerprints: dict[str, str] = {}
        self.broken_images: set[str] = set()
        self.tokenizer_given = False
        self._tokenizer: PostTokenizer | None = None
        self._store: FeatureStore | None = None
        self._folders: list[ImageSource] = []

    # What the model and the checkpoint need to know

    @property
    def store(self) -> FeatureStore | None:
        """The stored features, opened when first asked for."""
        if self._store is None and self.features is not None:
            self._store = FeatureStore(find_place(self.root, self.features, "stored features"))
        return self._store

    @property
    def region_width(self) -> int | None:
        """F of the stored features; None without."""
        return None if self.store is None else self.store.width

    @property
    def context_names(self) -> list[str]:
        """A name for each context source."""
        return [Path(pattern).stem for pattern in self.context]

    @property
    def post_tokenizer(self) -> PostTokenizer:
        """The tokeniser, loaded when first asked for."""
        if self._tokenizer is None:
            name = self.tokenizer or self.text_encoder or "tiny"
            if isinstance(name, dict):
                raise ValueError("Expected `tokenizer` (a name or folder) beside a text encoder given as configuration")
            self._tokenizer = PostTokenizer(name, self.max_length, self.replace_urls)
        return self._tokenizer

    def describe(self) -> dict[str, Any]:
        """Plain facts for checkpoints and prediction files; enough to prepare new posts as these were."""
        return {**self.describe_inputs(), "tokenizer": self.post_tokenizer.files()}

    def describe_inputs(self) -> dict[str, Any]:
        """As `describe`, without the tokeniser's files."""
        return {
            "name": type(self).__name__,
            "labels": self.labels,
            "fingerprints": dict(self.fingerprints),
            "context": self.context_names,
            "images": self.images is not None,
            "image_encoder": self.image_encoder,
            "image_size": self.image_size,
            "features": None if self.store is None else dict(self.store.meta),
            "max_length": self.max_length,
            "replace_urls": self.replace_urls,
            "train_fraction": self.train_fraction,
        }

    def use_tokenizer(self, files: dict[str, str]) -> None:
        """Tokenise as a checkpoint's model was trained to, wherever its tokeniser came from.

        Args:
            files: Name and content of the tokeniser's files, as `describe` gives them.
        """
        self.tokenize_with(PostTokenizer.from_files(files, self.max_length, self.replace_urls))
        self.tokenizer_given = True

    def tokenize_with(self, tokenizer: PostTokenizer) -> None:
        """Tokenise with another one from here on; what was tokenised before is read again."""
        self._tokenizer = tokenizer
        self.datasets.clear()

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Read and tokenise the splits that `stage` (fit, validate, test, predict) needs."""
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        if hasattr(model, "restored"):
            serve(self, model)
        wanted: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "valid"),
            "validate": ("valid",),
            "test": ("test",),
            "predict": (self.predict_split,),
        }
        for split in wanted.get(stage, ()):
            self._ready(split)
        if stage in ("fit", "test"):
            refuse_overlap(
                {split: (post.id for post in self._posts(split)) for split in self.split_names()},
                wanted[stage], self.root, self.overlap_advice,
            )  # fmt: skip

    def _ready(self, split: Split) -> MNERDataset:
        """A split, read unless it is at hand; loaders by hand may ask before anybody called `setup`."""
        if split not in self.datasets:
            self.datasets[split] = self.dataset(split)
        return self.datasets[split]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the images that have a file, but could not be opened."""
        if "image" in batch and not batch["has_image"].all():
            for image_id, there in zip(batch["image_id"], batch["has_image"].tolist(), strict=True):
                if not there and image_id is not None and any(image_id in folder for folder in self._folders):
                    self.broken_images.add(image_id)
        return batch

    def teardown(self, stage: str) -> None:
        """Report the images that could not be opened."""
        if self.broken_images:
            log.warning(
                "%d image files could not be read (%s); their posts had the learned 'no image' vector. "
                "`mner data verify` says what is wrong with them",
                len(self.broken_images),
                ", ".join(sorted(self.broken_images)[:5]) + (" …" if len(self.broken_images) > 5 else ""),
            )
            self.broken_images.clear()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Bucketed, shuffled batches of the training split."""
        return self._loader(self._ready("train"), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the valid split, each post once."""
        return self._loader(self._ready("valid"), self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split, each post once."""
        return self._loader(self._ready("test"), self.eval_batch_size, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of `predict_split`."""
        return self._loader(self._ready(self.predict_split), self.eval_batch_size, shuffle=False)

    def loader(self, examples: Sequence[Example], images: str | None = None) -> DataLoader[Batch]:
        """Batches of any posts, prepared like the data set's own; for prediction."""
        dataset = self._prepare(
            examples, "new posts", self.image_source(None) if images is None else ImageFolder(images)
        )
        return self._loader(dataset, self.eval_batch_size, shuffle=False)

    # From files to data sets

    def examples(self, split: Split) -> list[Example]:
        """The posts of a split, with their context texts.

        Raises:
            DataNotFoundError: If there is no such split, with what was found.
            DataFormatError: If its file is malformed.
        """
        posts, place = self.read(split)
        self.fingerprints[split] = fingerprint(posts)
        check_types(posts, self.labels, place)
        return with_context(posts, {name: self.read_source(name, split) for name in self.context}, split)

    def split_names(self) -> list[str]:
        """The splits that are there. A data module of another format overrides this and `read`."""
        return list(find_splits(self.root))

    def read(self, split: str) -> tuple[list[Example], object]:
        """The posts of a split, without the texts of `context`, and what messages call the place they come from."""
        found = find_splits(self.root)
        if split not in found:
            raise DataNotFoundError(
                f"No {split} split in {self.root}: found {sorted(found) or 'no split at all'}; expected {split}.txt or "
                f"{split}.jsonl there. docs/data.md describes the formats; `mner data download` fetches public data."
            )
        return read_posts(found[split]), found[split]

    def dataset(self, split: Split) -> MNERDataset:
        """One split, tokenised."""
        posts = self.examples(split)
        if split == "train":
            posts = training_posts(posts, self.train_fraction, self.seed, self.repair_iob == "i_to_b")
        dropout = self.context_dropout if split == "train" else 0.0
        return self._prepare(posts, split, self.image_source(split), dropout)

    def _prepare(
        self, posts: Sequence[Example], name: str, folder: ImageSource | None, context_dropout: float = 0.0
    ) -> MNERDataset:
        transform = None
        if folder is not None and self.image_encoder is not None:
            transform = transform_for(self.image_encoder, self.image_size)
            folder.size = transform.shorter_side  # JPEG files are decoded no larger than needed: twice as fast
        report_images(posts, name, folder, self.store)
        return MNERDataset(
            posts,
            self.labels,
            self.post_tokenizer,
            open_image=None if folder is None else folder.open,
            transform=transform,
            regions=self.store,
            context_dropout=context_dropout,
        )

    def read_source(self, name: str, split: str) -> Texts:
        """The texts of one context source; a data module of another format overrides it."""
        return read_source(name, self.root)

    def image_source(self, split: str | None) -> ImageSource | None:
        """Where the images of a split are, or those of any post (None); None without images."""
        if self.images is None:
            return None
        folder = find_place(self.root, self.images, "images")
        # The Snapchat layout keeps a folder of images for each split.
        inner = find_images(self.root, split) if split is not None else None
        own = inner is not None and inner.resolve().parent == folder.resolve()
        found = ImageFolder(inner if inner is not None and own else folder)
        self._folders.append(found)
        return found

    def _posts(self, split: str) -> Sequence[Example]:
        """All posts of a split, read again unless they are at hand."""
        whole = split != "train" or self.train_fraction == 1
        if whole and split in self.datasets:
            return self.datasets[split].examples
        return self.read(split)[0]

    def _loader(self, dataset: MNERDataset, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
        size = getattr(dataset.transform, "size", None)
        shape, tokenizer = None if size is None else (3, size, size), self.post_tokenizer
        collate = Collate(tokenizer.pad_id, shape, self.region_width, self.labels, tokenizer.fingerprint)
        return post_loader(dataset, collate, batch_size, shuffle, self.seed, self.num_workers)
