"""From posts to what a model takes: texts split, images opened, contexts found, as they were in training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mner.data.inputs import TAGS, split_names
from mner.data.tokenizer import PostTokenizer
from mner.data.word_splitter import Splitter, Style, Word, readable, split_words
from mner.errors import CheckpointError
from mner.tagger.folder import PLAIN
from mner.tagger.image_processor import NOTHING, Opened, Seen, Sight, joined, open_picture
from mner.tagger.post import Context, Post
from mner.tagger.sharing import Turns

if TYPE_CHECKING:
    from mner.fusion.base import FusionModule
    from mner.preprocessing.image_texts import Describe
    from mner.tagger.engines import Exported

MAX_CONTEXT = 100
"""Characters of context that are looked at for each piece that fits into the encoder."""

KNOWN_WORDS = 50_000
"""Distinct words and texts whose pieces are kept between batches."""


class Prepared(NamedTuple):
    """A post, ready for the model."""

    text: str
    words: list[Word]
    opened: Opened
    seen: Seen
    context: tuple[str, ...]
    object_names: tuple[str, ...] = ()
    relation: float = float("nan")


class ImageWarning(UserWarning):
    """A picture that was given had no part in the tagging; the message says why."""


class Preparer:
    """Prepares posts as the training data were.

    Args:
        data: What the checkpoint says of the data.
        tokenizer: The word-piece tokeniser.
        sight: What the model sees of images.
        style: How text is split into words.
        captioner: Makes the context of posts that come without: a `Captioner` or whatever makes texts of RGB images,
            or the name of its model.
        caption_source: Which of the context sources the captions stand for; None for the first.

    Attributes:
        sources: Names of the context sources that the model was trained with.

    Raises:
        ValueError: If there is a captioner, but the model was trained without context, or without that source.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        tokenizer: PostTokenizer,
        sight: Sight,
        style: Style | Splitter,
        captioner: Describe | str | None = None,
        caption_source: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.sight = sight
        self.style = style
        self.sources: list[str] = list(data.get("context") or [])
        if captioner is not None and not self.sources:
            raise ValueError("Expected no `captioner`, since the model was trained without context, but got one")
        self.captioner = captioner
        self._caption_place = self._place(caption_source)
        self._told: set[str] = set()
        self._names_from: str | None = data.get("object_names")
        self._turns = Turns()

    def __call__(self, posts: Sequence[Post]) -> list[Prepared]:
        """Everything but the model; threads take turns."""
        with self._turns:
            return self._prepared(posts)

    def _prepared(self, posts: Sequence[Post]) -> list[Prepared]:
        self.tokenizer.forget(beyond=KNOWN_WORDS)
        # A model of text alone, with a captioner, has its part of the picture as a text.
        read = self.captioner is not None and self.sight.blind
        described = [read and post.context is None for post in posts]
        given = [post.images or (None,) for post in posts]
        each = [open_picture(image, self.sight.size) for images in given for image in images]
        told = [text for text, images in zip(described, given, strict=True) for _ in images]
        opened, seen = _by_post(*self._see(each, told), [len(images) for images in given])
        contexts = self._contexts(posts)
        split = [self._split(post) for post in posts]
        return [
            Prepared(text, words, picture, what, texts, self._object_names(post, what, texts), self._relation(post))
            for post, (text, words), picture, what, texts in zip(posts, split, opened, seen, contexts, strict=True)
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
        return text, self.split(text)

    def split(self, text: str) -> list[Word]:
        """The words of a text."""
        return split_words(text, self.style) if isinstance(self.style, str) else list(self.style(text))

    def _see(self, opened: Sequence[Opened], described: Sequence[bool]) -> tuple[list[Opened], list[Seen]]:
        """What the model gets of each picture, and problems with them, of which the user is told.

        Args:
            opened: The pictures.
            described: Whether a caption of the picture is all that the model is to have of it.
        """
        pictures = [one.picture for one in opened]
        try:
            seen = self.sight.see(pictures)
        except CheckpointError as error:
            self._tell_once(str(error), ImageWarning)
            seen = [NOTHING] * len(pictures)
        missed = [picture for picture, text in zip(pictures, described, strict=True) if picture and not text]
        if self.sight.lacks and missed:
            self._tell_once(f"Images are not looked at: {self.sight.lacks}", ImageWarning)
        for one in opened:
            if one.problem:
                warnings.warn(f"An image was not used: {one.problem}", ImageWarning, stacklevel=2)
        unseen = self.sight.lacks or "nothing was found in it"
        return [
            Opened(one.picture, unseen) if one.picture is not None and what is NOTHING and not text else one
            for one, what, text in zip(opened, seen, described, strict=True)
        ], seen

    # What some models need beside images

    def _object_names(self, post: Post, seen: Seen, texts: Sequence[str]) -> tuple[str, ...]:
        if "object_names" not in self.sight.needs:
            return ()
        if post.object_names is not None:
            return tuple(post.object_names)
        if self._names_from == "context" and TAGS in self.sources:
            return tuple(split_names(texts[self.sources.index(TAGS)]))
        if self._names_from == "file":
            self._tell_once("The model needs names of objects, which a file gave in training: give `object_names`")
        elif seen.known is not None and seen.known.names is not None:
            return tuple(seen.known.names)
        return ()

    def _relation(self, post: Post) -> float:
        if post.relation is not None:
            return float(post.relation)
        if "relation" in self.sight.needs and post.images:
            self._tell_once("The model needs to know whether an image adds to its text: give `relation` of posts")
        return float("nan")

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
        opened = [(number, open_picture(next(iter(posts[number].images), None)).picture) for number in bare]
        pictures = {number: picture for number, picture in opened if picture is not None}
        if not pictures:
            return
        if isinstance(self.captioner, str):
            from mner.preprocessing.captions import load_captioner

            self.captioner = load_captioner(self.captioner, device=str(self.sight.device))
        if self.captioner is not None:
            for number, text in zip(pictures, self.captioner(list(pictures.values())), strict=True):
                contexts[number][self._caption_place] = text

    def _tell_once(self, message: str, kind: type[Warning] = UserWarning) -> None:
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, kind, stacklevel=2)


def _by_post(opened: Sequence[Opened], seen: Sequence[Seen], counts: Sequence[int]) -> tuple[list[Opened], list[Seen]]:
    """Pictures and what is seen of them, of each post: the first picture that is used, all problems, all regions."""
    pictures, joint, start = [], [], 0
    for count in counts:
        some, parts = opened[start : start + count], seen[start : start + count]
        start += count
        used = [one for one, what in zip(some, parts, strict=True) if what is not NOTHING]
        problems = "; ".join(dict.fromkeys(one.problem for one in some if one.problem))
        pictures.append(Opened((used or some)[0].picture, problems))
        joint.append(joined(parts))
    return pictures, joint


def tokenizer_of(model: FusionModule | Exported, data: Mapping[str, Any]) -> PostTokenizer:
    """The word-piece tokeniser of a model: the checkpoint's own, or that of the text encoder that it names.

    Raises:
        CheckpointError: If it has neither.
    """
    name = model.hparams.get("text_encoder")
    if data.get("tokenizer"):
        given = data["tokenizer"], data.get("max_length"), data.get("replace_urls"), bool(data.get(PLAIN))
        tokenizer = PostTokenizer.from_files(*given)
    elif isinstance(name, str):
        tokenizer = PostTokenizer(name)
    else:
        tokenizer = None
    if tokenizer is not None:
        encoder = getattr(model, "text_encoder", None)  # an exported model has none
        tokenizer.check_fits(None if encoder is None else encoder.config.get("vocab_size"))
        tokenizer.limit_to(data.get("piece_limit"))
        tokenizer.limit_to(getattr(encoder, "piece_limit", None))
        return tokenizer
    raise CheckpointError(
        "The checkpoint holds no tokeniser, since it was saved without a data module, and it does not name its text "
        "encoder either; give `tokenizer`, the PostTokenizer of the training posts"
    )
