"""`Tagger`: a trained model on new posts, prepared as those that it was trained on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from mner.data.tokenize import PostTokenizer
from mner.decode import Decoder, Found, Section, readable
from mner.errors import CheckpointError
from mner.fusion.base import FusionModule
from mner.pictures import NOTHING, Opened, Seen, Sight, open_picture
from mner.posts import Context, Entity, Post, Tagged
from mner.sweep import pick_device
from mner.words import Splitter, Style, Word, split_words, style_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from mner.caption import Captioner
    from mner.encoders.image import ImageEncoder
    from mner.encoders.regions import RegionDetector

__all__ = ["Entity", "ImageWarning", "Post", "Tagged", "Tagger"]

MAX_CONTEXT = 100
"""Characters of context that are looked at for each piece that fits into the encoder."""

SECTION = 10_000
"""Words that are decoded together; longer texts are cut."""

KNOWN_WORDS = 50_000
"""Distinct words and texts whose pieces are kept between batches."""

AnyPost = Post | str | Sequence[str] | Mapping[str, Any]


class ImageWarning(UserWarning):
    """A picture that was given had no part in the tagging; the message says why."""


class Tagger:
    """Finds entities in new posts with a trained model.

    Text is split, and context and images are prepared, as the checkpoint says that they were in training.

    Args:
        model: A model from a checkpoint.
        captioner: Makes the context of posts that come with an image and without context: a `Captioner`, or the name or
            folder of an image-to-text model. For models that were trained on captions.
        caption_source: Which of the context sources the captions stand for; None for the first.
        encoder: What makes image features, for models that were trained on stored ones; None for the one that the
            checkpoint names, if its weights can be had.
        image_weights: File of the weights of that one, if they are from a file.
        words: How text is split: a style of `mner.words`, or a function from a text to words with their places. None
            for the style of the training data.
        tokenizer: Word-piece tokeniser, in place of the checkpoint's.
        batch_size: Posts that are tagged together.
        device: `auto`, `cpu`, `cuda`, ...

    Attributes:
        labels: The BIO labels.
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
        model: FusionModule,
        *,
        captioner: Captioner | str | None = None,
        caption_source: str | None = None,
        encoder: ImageEncoder | RegionDetector | None = None,
        image_weights: str | os.PathLike[str] | None = None,
        words: Style | Splitter | None = None,
        tokenizer: PostTokenizer | None = None,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {batch_size}")
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        self.labels = list(model.labels)
        self.batch_size = batch_size
        self.data: dict[str, Any] = dict((model.restored or {}).get("data") or {})
        self.sources: list[str] = list(self.data.get("context") or [])
        self.tokenizer = tokenizer or _tokenizer(model, self.data)
        self.decoder = Decoder(self.model, self.tokenizer, self.device)
        self.sight = Sight(model, self.data, self.device, encoder, image_weights)
        self.words = words if words is not None else style_of(self.data.get("name"))
        self._caption_place = self._place(caption_source)
        if captioner is not None and not self.sources:
            raise ValueError("Expected no `captioner`, since the model was trained without context, but got one")
        self.captioner = captioner
        self.scores: dict[str, float] = {}
        self.licence: str | None = None
        self._told: set[str] = set()

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """A tagger from a checkpoint that `mner fit` wrote.

        Args:
            path: The file. Nothing in it is run: tensors and plain data are all that is read.
            options: As for `Tagger`.

        Raises:
            CheckpointError: If it is not there, or is no checkpoint of `mner`.
        """
        if Path(path).is_dir():
            raise CheckpointError(f"Expected a checkpoint, but {path} is a folder")
        return cls(FusionModule.load_from_checkpoint(path), **options)

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
        from mner.hub import load_model

        shared = load_model(name, revision, token)
        tagger = cls(shared.model, **options)
        tagger.scores, tagger.licence = shared.scores, shared.licence
        return tagger

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
    ) -> Path:
        """Write the model as a folder that holds everything to tag with: safetensors, configuration, tokeniser, card.

        Args:
            folder: The folder; made if it is not there.
            scores: Scores for the card, such as `{"test/f1": 0.74}`; `mner.hub.scores_of` has those of a prediction
                file. None for those that the model came with.
            licence: Identifier of the licence that you give it, such as `mit`. None for the one that it came with.
        """
        from mner.hub import save_model

        return save_model(self.model, folder, scores or self.scores, licence or self.licence, self.tokenizer)

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
        from mner.hub import push_model

        scores, licence = scores or self.scores, licence or self.licence
        return push_model(self.model, repository, scores, licence, self.tokenizer, private, token)

    @overload
    def __call__(self, text_or_words: list[Post] | list[dict[str, Any]] | list[list[str]]) -> list[Tagged]: ...

    @overload
    def __call__(
        self,
        text_or_words: str | Sequence[str] | Post,
        image: Image | bytes | str | os.PathLike[str] | None = None,
        context: Context = None,
    ) -> Tagged: ...

    def __call__(self, text_or_words: Any, image: Any = None, context: Any = None) -> Any:
        """The entities of a post, or of each of a list of posts.

        Args:
            text_or_words: A text; the words of one post; or a list of posts, each a text, a list of words, a `Post` or
                a mapping of its attributes. A list of strings is the words of one post, unless one of them has a space
                in it: then they are texts. (`stream` takes every string for a text.)
            image: From PIL, or the bytes or path of an image file. One that cannot be read is warned of.
            context: Text of one source, a list of texts in the order of the sources in training, or a mapping from the
                names of sources to texts.

        Returns:
            A `Tagged`, which is a list of `Entity`, in order; or a list of them for a list of posts.
        """
        if _is_list_of_posts(text_or_words):
            if image is not None or context is not None:
                raise ValueError("Expected images and context inside of the posts of a list: Post(text, image=…)")
            return list(self.stream(text_or_words))
        if isinstance(text_or_words, (Post, Mapping)):
            post = Post.of(text_or_words)
        elif isinstance(text_or_words, str):
            post = Post(text=text_or_words, image=image, context=context)
        else:
            post = Post(words=text_or_words, image=image, context=context)
        return next(self.stream([post]))

    def stream(self, posts: Iterable[AnyPost], batch_size: int | None = None) -> Iterator[Tagged]:
        """Tag posts as they come, in order, holding one batch of them in memory.

        Args:
            posts: Texts, lists of words, `Post` objects or mappings of their attributes; as many as you like.
            batch_size: Posts that are tagged together; None for the tagger's own.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {size}")
        source = iter(posts)
        while batch := [Post.of(post) for post in islice(source, size)]:
            yield from self._tag(batch, size)

    # One batch of posts, from what was given to entities

    def _tag(self, posts: Sequence[Post], batch_size: int) -> list[Tagged]:
        self.tokenizer.forget(beyond=KNOWN_WORDS)
        texts, words = zip(*(self._split(post) for post in posts), strict=True)
        opened = [open_picture(post.image, self.sight.size) for post in posts]
        opened, seen = self._see(opened)
        contexts = self._contexts(posts)
        sections = [
            Section(number, words[number][start : start + SECTION], contexts[number], seen[number])
            for number in range(len(posts))
            for start in range(0, len(words[number]), SECTION)
        ]
        found: list[list[Found]] = [[] for _ in posts]
        for section, result in zip(sections, self.decoder(sections, batch_size), strict=True):
            found[section.post].append(result)
        return [
            _tagged(
                texts[number],
                words[number],
                found[number],
                has_image=seen[number] is not NOTHING,
                image_problem=opened[number].problem,
                context=contexts[number],
            )
            for number in range(len(posts))
        ]

    def _split(self, post: Post) -> tuple[str, list[Word]]:
        if post.words is not None:
            text = " ".join(post.words)
            words, start = [], 0
            for word in post.words:
                words.append(Word(word, start, start + len(word)))
                start += len(word) + 1
            return text, words
        text = post.text or ""
        return text, split_words(text, self.words) if isinstance(self.words, str) else list(self.words(text))

    def _see(self, opened: Sequence[Opened]) -> tuple[list[Opened], list[Seen]]:
        """What the model gets of each picture, and problems with them, of which the user is told."""
        pictures = [one.picture for one in opened]
        try:
            seen = self.sight.see(pictures)
        except CheckpointError as error:
            self._tell_once(str(error), ImageWarning)
            seen = [NOTHING] * len(pictures)
        if self.sight.lacks and any(pictures):
            self._tell_once(f"Images are not looked at: {self.sight.lacks}", ImageWarning)
        for one in opened:
            if one.problem:
                warnings.warn(f"An image was not used: {one.problem}", ImageWarning, stacklevel=2)
        unseen = self.sight.lacks or "nothing was found in it"
        return [
            Opened(None, unseen) if one.picture is not None and what is NOTHING else one
            for one, what in zip(opened, seen, strict=True)
        ], seen

    # Context

    def _place(self, name: str | None) -> int:
        if name is not None and name not in self.sources:
            raise ValueError(f"Expected `caption_source` to be one of the sources {self.sources}, but got {name!r}")
        return self.sources.index(name) if name is not None else 0

    def _contexts(self, posts: Sequence[Post]) -> list[tuple[str, ...]]:
        """The texts of each post, one for each source."""
        contexts = [self._in_order(post.context) for post in posts]
        bare = [number for number, post in enumerate(posts) if self.sources and post.context is None]
        if bare and self.captioner is not None:
            self._caption(posts, bare, contexts)
        elif bare:
            self._tell_once(
                f"The model was trained with context ({', '.join(self.sources)}), but there are posts without: give "
                "their `context`, or a `captioner`, if it is captions"
            )
        return [tuple(texts) for texts in contexts]

    def _in_order(self, context: Context) -> list[str]:
        if not self.sources:
            if context:
                self._tell_once("Context is not read: the model was trained without")
            return []
        if context is None:
            return [""] * len(self.sources)
        if isinstance(context, Mapping):
            unknown = sorted(set(context) - set(self.sources))
            if unknown:
                raise ValueError(f"Expected context of the sources {self.sources}, but got {unknown}")
            texts = [context.get(source, "") for source in self.sources]
        else:
            texts = [context] if isinstance(context, str) else list(context)
        if len(texts) > len(self.sources):
            raise ValueError(
                f"Expected a text for each of the sources {self.sources}, as in training, but got {len(texts)} texts"
            )
        most = MAX_CONTEXT * self.tokenizer.max_length
        texts = [readable(text[:most].strip()) for text in texts]
        return texts + [""] * (len(self.sources) - len(texts))

    def _caption(self, posts: Sequence[Post], bare: Sequence[int], contexts: Sequence[list[str]]) -> None:
        opened = [(number, open_picture(posts[number].image).picture) for number in bare]
        pictures = {number: picture for number, picture in opened if picture is not None}
        if not pictures:
            return
        if isinstance(self.captioner, str):
            from mner.caption import Captioner

            self.captioner = Captioner(self.captioner, device=str(self.device))
        if self.captioner is not None:
            for number, text in zip(pictures, self.captioner(list(pictures.values())), strict=True):
                contexts[number][self._caption_place] = text

    def _tell_once(self, message: str, kind: type[Warning] = UserWarning) -> None:
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, kind, stacklevel=2)


def _tagged(text: str, words: Sequence[Word], found: Sequence[Found], **facts: Any) -> Tagged:
    entities: list[Entity] = []
    tags: list[str] = []
    for section in found:
        before = len(tags)
        tags += section.tags
        for start, end, type_, score in section.entities:
            start, end = before + start, before + end
            first, last = words[start].start, words[end - 1].end
            entities.append(Entity(text[first:last], type_, first, last, round(score, 6), start, end))
    return Tagged(entities, text=text, words=words, tags=tags, **facts)


def _is_list_of_posts(value: Any) -> bool:
    if isinstance(value, (str, Post, Mapping)) or not isinstance(value, Sequence):
        return False
    return any(not isinstance(element, str) or " " in element for element in value)


def _tokenizer(model: FusionModule, data: Mapping[str, Any]) -> PostTokenizer:
    if data.get("tokenizer"):
        return PostTokenizer.from_files(data["tokenizer"], data.get("max_length"), data.get("replace_urls"))
    name = model.hparams.get("text_encoder")
    if isinstance(name, str):
        return PostTokenizer(name)
    raise CheckpointError(
        "The checkpoint holds no tokeniser, since it was saved without a data module, and it does not name its text "
        "encoder either; give `tokenizer`, the PostTokenizer of the training posts"
    )
