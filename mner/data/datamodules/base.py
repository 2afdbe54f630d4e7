"""`MNERDataModule`: from a folder of posts to batches. Data sets differ only in their entity types and layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.utils.data import DataLoader

from mner.batch import Batch
from mner.data.agreement import agree
from mner.data.datamodules.loading import BatchLoading
from mner.data.dataset import MNERDataset
from mner.data.encoder_limit import encoder_config, encoder_limit
from mner.data.examples import Example, Split, fingerprint
from mner.data.formats.context import Texts
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder, ImageSource
from mner.data.formats.posts import read_posts
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
from mner.data.word_splitter import style_of
from mner.data.word_style import WordStyle, find_style
from mner.errors import DataNotFoundError
from mner.labels import bio_labels

log = logging.getLogger(__name__)


class MNERDataModule(BatchLoading):
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
        replace_urls: Word that stands for every URL, in posts and in texts beside them, or None to leave them.
        images: Folder of images (absolute, or below `root`), or None for none.
        image_encoder: timm model whose transform the images get; the command line takes it from the model.
        image_size: Pixels of a side; None for the image encoder's own.
        features: Folder of stored features (`mner features`), in place of `images`.
        context: Files of texts by image or post id, each a second segment in this order. A pattern such as
            `captions/*.json` joins the files that it matches into one source. Relative to `root`, or absolute.
        context_dropout: Probability that a training post is shown without context.
        relations: File of values that say how far an image adds to its post's text, for strategies that need them:
            lines `image_id<TAB>value`, or JSON lines. Relative to `root`, or absolute.
        object_names: File of texts with the names of objects (`person, dog`) by image or post id, in place of those
            of stored regions or of a context source called `tags`. Relative to `root`, or absolute.
        train_fraction: Part of the training posts to use, for learning curves; the subsets of one seed are nested.
        repair_iob: `"i_to_b"` makes a stray `I-` in the training split a `B-`; valid and test are never changed.
        seed: Of shuffling and of the training subset; None for that of `seed_everything`, or else 0.

    Attributes:
        labels: The BIO labels, `O` first.
        datasets: The splits that were set up, by name.
        fingerprints: Of the labels of the splits that were read, by name.
        word_style: How text is split into words like those of the training split; known once that was read.
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
        relations: str | None = None,
        object_names: str | None = None,
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
        self.relations = relations
        self.object_names = object_names
        self.train_fraction = train_fraction
        self.repair_iob = repair_iob
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        if not hasattr(self, "labels"):
            self.labels = bio_labels(self.types)
        self.fingerprints: dict[str, str] = {}
        self.word_style: WordStyle | None = None
        self.tokenizer_given = False
        self._tokenizer: PostTokenizer | None = None
        self._store: FeatureStore | None = None

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
            self._tokenizer.limit_to(encoder_limit(encoder_config(self.text_encoder or "tiny")))
        return self._tokenizer

    def describe(self) -> dict[str, Any]:
        """Plain facts for checkpoints and prediction files; enough to prepare new posts as these were."""
        tokenizer = self.post_tokenizer
        return {**self.describe_inputs(), "tokenizer": tokenizer.files(), "piece_limit": tokenizer.max_length}

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
            "object_names": self.names_from,
            "words": None if self.word_style is None else self.word_style._asdict(),
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
            agree(self, model)
        wanted: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "valid"),
            "validate": ("valid",),
            "test": ("test",),
            "predict": (self.predict_split,),
        }
        encoder = getattr(getattr(self.trainer, "lightning_module", None), "text_encoder", None)
        self.post_tokenizer.limit_to(getattr(encoder, "piece_limit", None))
        for split in wanted.get(stage, ()):
            self._ready(split)
        if stage in ("fit", "test"):
            refuse_overlap(
                {split: (post.id for post in self._posts(split)) for split in self.split_names()},
                wanted[stage], self.root, self.overlap_advice,
            )  # fmt: skip

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
        if split not in (found := find_splits(self.root)):
            raise DataNotFoundError(
                f"No {split} split in {self.root}: found {sorted(found) or 'no split at all'}; expected {split}.txt or "
                f"{split}.jsonl there. docs/data.md describes the formats; `mner data download` fetches public data."
            )
        return read_posts(found[split]), found[split]

    def dataset(self, split: Split) -> MNERDataset:
        """One split, tokenised."""
        posts = self.examples(split)
        if split == "train":
            self.word_style = find_style([post.words for post in posts], style_of(type(self).__name__))
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
        whole = split in self.datasets and (split != "train" or self.train_fraction == 1)
        return self.datasets[split].examples if whole else self.read(split)[0]
