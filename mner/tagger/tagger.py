"""`Tagger`: a trained model on new posts, prepared as those that it was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from mner.data.inputs import described
from mner.data.tokenizer import PostTokenizer
from mner.data.word_splitter import STYLES, Splitter, Style, style_of
from mner.errors import CheckpointError
from mner.tagger.engines import Exported
from mner.tagger.image_processor import Sight
from mner.tagger.names import Given, names_for
from mner.tagger.placement import decoder_of, placed
from mner.tagger.post import Context, Entity, Post, Tagged, groups, posts_of
from mner.tagger.preprocessor import ImageWarning, Prepared, Preparer, tokenizer_of
from mner.tagger.results import sections_of, tagged_of
from mner.tagger.sections import Found
from mner.tagger.sharing import Sharing, Turns

if TYPE_CHECKING:
    from PIL.Image import Image

    from mner.encoders.detectors import RegionDetector
    from mner.encoders.image import ImageEncoder
    from mner.fusion.base import FusionModule
    from mner.nn.neighbours import WordNeighbours
    from mner.preprocessing.image_texts import Describe
    from mner.runtime import Precision
    from mner.tagger.engine_choice import Engine
    from mner.tagger.packing import StoredType
    from mner.tagger.render import Rendering

__all__ = ["Entity", "ImageWarning", "Post", "Tagged", "Tagger"]
AHEAD = 8
"""Batches that are read together where nobody waits for the first: 97 % of their pieces are real, not 60 %."""
AnyPost = Post | str | Sequence[str] | Mapping[str, Any]


class Tagger:
    """Finds entities in new posts with a trained model.

    Text is split, and context and images are prepared, as the checkpoint says that they were in training. Threads can
    share a tagger: their posts are tagged together, and an error reaches the thread alone whose post has it.

    Args:
        model: A model from a checkpoint.
        captioner: Makes the context of posts that come with an image and without context: a `Captioner`, or the name or
            folder of an image-to-text model. For models that were trained on captions.
        caption_source: Which of the context sources the captions stand for; None for the first.
        encoder: What makes image features, for models that were trained on stored ones; None for the one that the
            checkpoint names, if its weights can be had.
        image_weights: File of the weights of that one, if they are from a file.
        words: How text is split: a style of `mner.data.word_splitter`, or a function from a text to words with their
            places. None for the style of the training data.
        tokenizer: Word-piece tokeniser, in place of the checkpoint's.
        batch_size: Most posts that are computed together.
        device: `auto`, `cpu`, `cuda`, ...
        label_set: Whose labels to tag with, of a model with several label sets; None for the first.
        min_score: Entities with a lower score are left out; they are in `Tagged.left_out`.
        names: Names that are always, or never, entities of a type: files as `Names.read` takes them, or a `Names`.
        neighbours: Training words whose labels are mixed into those of the model, or their file (`mner neighbours`).
        precision: `32-true`, `bf16-mixed`, `16-mixed`, or `auto` for what the device does best, by a measurement of
            some milliseconds; never slower than float32. Lower precisions may give other entities.
        engine: What computes label scores: `torch`, `onnx` or `openvino` (a graph, written once into a cache),
            `compile`, or `auto`, the fastest of the first three that are installed, measured on some posts.
        int8: Whether `auto` and `onnx` may round weights to eight bits; then entities may differ.

    Attributes:
        labels: The BIO labels.
        precision: What label scores are computed in.
        prepare: Makes of posts what the model takes: texts split, images opened, contexts found.
        sources: Names of the context sources that the model was trained with.
        scores: Scores that a shared model came with.
        licence: Licence that a shared model came with.

    Raises:
        CheckpointError: If the checkpoint holds no tokeniser and none is given.
        ValueError: If there is a captioner, but the model was trained without context.

    For example::

        tagger = Tagger.from_checkpoint("best.ckpt")
        for entity in tagger("Anna visits Old Town", image="anna.jpg"):
            print(entity.text, entity.type, entity.start, entity.end, entity.score)
    """

    def __init__(
        self,
        model: FusionModule | Exported,
        *,
        captioner: Describe | str | None = None,
        caption_source: str | None = None,
        encoder: ImageEncoder | RegionDetector | None = None,
        image_weights: str | os.PathLike[str] | None = None,
        words: Style | Splitter | None = None,
        tokenizer: PostTokenizer | None = None,
        batch_size: int = 32,
        device: str = "auto",
        label_set: str | None = None,
        min_score: float = 0.0,
        names: Given = None,
        neighbours: WordNeighbours | str | os.PathLike[str] | None = None,
        precision: Precision | Literal["auto"] = "32-true",
        engine: Engine = "torch",
        int8: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {batch_size}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"Expected argument `min_score` to be from 0 to 1, but got {min_score}")
        self.min_score = min_score
        self.turns = Turns()
        self.sharing = Sharing()
        self.model: Any = model
        self.device, self.precision, self.label_set = placed(model, device, precision, label_set, neighbours)
        self.labels = list(model.labels)
        self.batch_size = batch_size
        self.data: dict[str, Any] = described((model.restored or {}).get("data") or {}, self.label_set)
        self.tokenizer = tokenizer or tokenizer_of(model, self.data)
        self.sight = Sight(model, self.data, self.device, encoder, image_weights)
        found = (self.data.get("words") or {}).get("style")  # checkpoints of before say nothing of it
        style = words or (found if found in STYLES else style_of(self.data.get("name")))
        self.prepare = Preparer(self.data, self.tokenizer, self.sight, style, captioner, caption_source)
        self.sources = self.prepare.sources
        self.names = names_for(names, self.labels, self.prepare.split)
        parts = self.tokenizer, self.device, self.names, self.precision
        self.decoder = self._drawn_by = decoder_of(model, *parts)
        self.scores: dict[str, float] = {}
        self.licence: str | None = None
        if engine != "torch" or int8:
            from mner.tagger.engine_choice import with_engine

            self.decoder = decoder_of(with_engine(self, engine, int8), *parts)
        self.engine: str = getattr(self.decoder.model, "engine", "torch")

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """A tagger from a checkpoint that `mner fit` wrote.

        Args:
            path: The file. Nothing in it is run: tensors and plain data are all that is read.
            options: As for `Tagger`.

        Raises:
            CheckpointError: If it is not there, or is no checkpoint of `mner`.
        """
        from mner.fusion.base import FusionModule  # an exported model needs none of it

        if Path(path).is_dir():
            raise CheckpointError(f"Expected a checkpoint, but {path} is a folder")
        model = FusionModule.load_from_checkpoint(path)
        model.text_encoder.merge()  # LoRA adapters have no use but to be trained
        return cls(model, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> Self:
        """A tagger from a folder that `save_pretrained` wrote, or from the Hugging Face Hub.

        Nothing from there is run. The model's class has to be one of mner's, or yours, imported before.

        Args:
            name: The folder, or the repository's name (`owner/model`).
            revision: Branch, tag or commit of the repository.
            token: For repositories that are not public.
            options: As for `Tagger`.

        Raises:
            CheckpointError: If there is no such model, or it cannot be used.
        """
        from mner.tagger.hub import load_model

        shared = load_model(name, revision, token)
        tagger = cls(shared.model, **options)
        tagger.scores, tagger.licence = shared.scores, shared.licence
        return tagger

    @classmethod
    def from_onnx(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """A tagger that runs an exported model with ONNX Runtime, without importing torch if it is one of text alone.

        Args:
            folder: What `mner export` wrote.
            options: As for `Tagger`.

        Raises:
            MissingDependencyError: If ONNX Runtime is not installed.
            CheckpointError: If the folder holds no exported model.
        """
        return cls(Exported(folder), **{"device": "cpu", **options})

    @classmethod
    def load(cls, name: str | os.PathLike[str], **options: Any) -> Self:
        """A tagger from a checkpoint's file, a shared model's folder, or the Hub: whichever `name` is.

        Args:
            name: The file, the folder, or the repository's name.
            options: As for `Tagger`.
        """
        path = Path(name)
        is_file = path.is_file() or path.suffix == ".ckpt"
        return cls.from_checkpoint(path, **options) if is_file else cls.from_pretrained(name, **options)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        scores: Mapping[str, float] | None = None,
        licence: str | None = None,
        dtype: StoredType = "float32",
    ) -> Path:
        """Write the model as a folder that holds everything to tag with: safetensors, configuration, tokeniser, card.

        Args:
            folder: The folder; made if it is not there.
            scores: Scores for the card, such as `{"test/f1": 0.74}`; `mner.tagger.hub.scores_of` has those of a
                prediction file. None for those that the model came with.
            licence: Identifier of the licence that you give it, such as `mit`. None for the one that it came with.
            dtype: What weights are stored as: float32, float16 or int8; loaded they are float32 again, rounded.
        """
        from mner.tagger.hub import save_model

        return save_model(self.model, folder, scores or self.scores, licence or self.licence, self.tokenizer, dtype)

    def push_to_hub(
        self,
        repository: str,
        scores: Mapping[str, float] | None = None,
        licence: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face Hub; the repository is made if it is not there.

        Args:
            repository: Its name, `owner/model`.
            scores: As for `save_pretrained`.
            licence: As for `save_pretrained`.
            private: Whether a new repository is to be private; None for the owner's usual setting.
            token: Access token; None for the one that you logged in with.

        Returns:
            The address of the commit.
        """
        from mner.tagger.hub import push_model

        scores, licence = scores or self.scores, licence or self.licence
        return push_model(self.model, repository, scores, licence, self.tokenizer, private, token)

    @overload
    def __call__(self, posts: list[Any] | tuple[Any, ...]) -> list[Tagged]: ...

    @overload
    def __call__(
        self,
        posts: str | Post | Mapping[str, Any] | None = None,
        image: Image | bytes | str | os.PathLike[str] | Sequence[Image | bytes | str | os.PathLike[str]] | None = None,
        context: Context = None,
        *,
        words: Sequence[str] | None = None,
    ) -> Tagged: ...

    def __call__(self, posts: Any = None, image: Any = None, context: Any = None, *, words: Any = None) -> Any:
        """The entities of a post, or of each of a list of posts.

        Args:
            posts: A text, a `Post`, or a mapping of its attributes; or a list of such. A list is always one of posts.
            image: Of one text: from PIL, or the bytes or path of an image file, or a list of those. One that cannot be
                read is warned of.
            context: Of one text: text of one source, a list of texts in the order of the sources in training, or a
                mapping from the names of sources to texts.
            words: The words of one post, in place of a text.

        Returns:
            A `Tagged`, which is a list of `Entity`, in order; or a list of them for a list of posts.

        Raises:
            ValueError: If an image, a context or words are given beside a list, a `Post` or a mapping; or nothing is.
        """
        given = posts_of(posts, image, context, words)
        return list(self.stream(given, ahead=AHEAD)) if isinstance(given, list) else next(self.stream([given]))

    def stream(self, posts: Iterable[AnyPost], batch_size: int | None = None, ahead: int = 1) -> Iterator[Tagged]:
        """Tag posts as they come, in order.

        Args:
            posts: Texts, `Post` objects, mappings of their attributes, or lists of the words of one post each; as many
                as you like.
            batch_size: Most posts that are computed together; None for the tagger's own.
            ahead: Batches to read before the first is tagged. Posts of similar length then share a batch, which is
                faster where they come at once; of posts with images no more than one batch is ever held.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size < 1 or ahead < 1:
            raise ValueError(f"Expected `batch_size` and `ahead` to be at least 1, but got {size} and {ahead}")
        for group in groups(map(Post.of, posts), size, ahead):
            yield from self.sharing(group, size, self._tag)

    def render(
        self, posts: Any = None, image: Any = None, context: Any = None, attention: bool = True, *, words: Any = None
    ) -> Rendering:
        """Posts with their entities marked, their images, contexts, and where the model looked, as HTML.

        Notebooks show it; `.save(path)` writes a page that needs nothing else.

        Args:
            posts: As for a call: a text or a post, or a list of such.
            image: As for a call.
            context: As for a call.
            attention: Draw attention over the image, where the model has some.
            words: As for a call.
        """
        from mner.tagger.render import Rendering, pictures_of, post_html

        given, parts = posts_of(posts, image, context, words), []
        for post in given if isinstance(given, list) else [given]:
            with self.turns:
                (prepared,) = self.prepare([post])
                (tagged,) = self.finish([prepared])
                pictures = pictures_of(self._drawn_by, self.sight, prepared, tagged, attention)
            parts.append(post_html(tagged, self.sources, pictures))
        return Rendering(parts)

    # One batch of posts, from what was given to entities

    def _tag(self, posts: list[Post], size: int) -> list[Tagged]:
        with self.turns:
            return self.finish(self.prepare(posts), size)

    def finish(self, prepared: Sequence[Prepared], batch_size: int | None = None) -> list[Tagged]:
        """Tag what `prepare` made of posts."""
        sections = sections_of(prepared)
        found: list[list[Found]] = [[] for _ in prepared]
        for section, result in zip(sections, self.decoder(sections, batch_size or self.batch_size), strict=True):
            found[section.post].append(result)
        return [tagged_of(post, parts, self.min_score) for post, parts in zip(prepared, found, strict=True)]
