"""Posts as a tagger takes them, and entities as it gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from mner.data.word_splitter import Word

if TYPE_CHECKING:
    from PIL.Image import Image

Context = str | Sequence[str] | Mapping[str, str] | None
"""Text beside a post: of one source, of several in the order of training, or by the sources' names."""


@dataclass(frozen=True, slots=True)
class Post:
    """A post to be tagged.

    Attributes:
        text: As written; it will be split as the training data was.
        words: The words, in place of `text`, where they are known.
        image: From PIL, or the bytes or path of an image file, or a list of those; None where the post has none.
        context: Text of one source, a list of texts in the order of the sources in training, or a mapping from the
            names of sources to texts. None where there is none: a captioner may then make it.
        object_names: Names of the objects in the image, for models that need them; None for those that a detector or
            the context says.
        relation: How far the image adds to the text, 0 to 1, for models that need it; None where it is not known.

    Raises:
        ValueError: Unless exactly one of `text` and `words` is given, and the words have content.
        TypeError: If something is of another type.
    """

    text: str | None = None
    words: Sequence[str] | None = None
    image: Image | bytes | str | PathLike[str] | Sequence[Image | bytes | str | PathLike[str]] | None = None
    context: Context = None
    object_names: Sequence[str] | None = None
    relation: float | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.words is None):
            found = "neither" if self.text is None else "both"
            raise ValueError(f"Expected `text` or `words` of a post, but got {found}")
        if self.text is not None and not isinstance(self.text, str):
            raise TypeError(f"Expected the text of a post to be a string, but got a {type(self.text).__name__}")
        if self.words is not None:
            _check_strings(self.words, "words")
            if "" in self.words:
                raise ValueError("Expected words with content, but one is empty")
        for image in self.images:
            if not (isinstance(image, (bytes, bytearray, str, PathLike)) or _is_pil(image)):
                raise TypeError(
                    "Expected an image to be from PIL, the bytes of an image file or the path of one, or a list of "
                    f"those, but got a {type(image).__name__}"
                )
        if self.object_names is not None:
            _check_strings(self.object_names, "object_names")
        if self.relation is not None and not 0 <= self.relation <= 1:
            raise ValueError(f"Expected the `relation` of a post to be from 0 to 1, but got {self.relation}")
        if isinstance(self.context, Mapping):
            _check_strings(list(self.context.values()), "context")
        elif self.context is not None and not isinstance(self.context, str):
            _check_strings(self.context, "context")

    @property
    def images(self) -> tuple[Image | bytes | str | PathLike[str], ...]:
        """Its images: none, one, or several."""
        if self.image is None:
            return ()
        return tuple(self.image) if isinstance(self.image, (list, tuple)) else (self.image,)  # type: ignore[return-value]

    @classmethod
    def of(cls, given: Post | str | Sequence[str] | Mapping[str, Any]) -> Post:
        """A post from itself, a text, a list of its words, or a mapping of a post's attributes.

        >>> Post.of("Anna visits Lagos").text, Post.of(["Anna", "visits", "Lagos"]).words
        ('Anna visits Lagos', ['Anna', 'visits', 'Lagos'])
        >>> Post.of({"text": "Anna", "context": "a caption"}).context
        'a caption'

        Raises:
            TypeError: If it is something else, or the mapping has other keys.
        """
        if isinstance(given, Post):
            return given
        if isinstance(given, str):
            return cls(text=given)
        if isinstance(given, Mapping):
            known = set(cls.__dataclass_fields__)
            unknown = sorted(map(str, set(given) - known))
            if unknown:
                raise TypeError(f"Expected the keys {sorted(known)} of a post, but got {unknown}")
            return cls(**given)
        if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)):
            return cls(words=given)
        raise TypeError(
            f"Expected a post (a text, a list of words, a Post or a mapping of its attributes), but got a "
            f"{type(given).__name__}"
        )


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity of a post.

    Attributes:
        text: As it stands in the post.
        type: Such as `PER`.
        start: Its first character: `post_text[start:end] == text`. Of a post that was given as words, the text is the
            words joined by spaces.
        end: Behind its last character.
        score: Probability, given the post, that exactly these words are an entity of this type.
        word_start: Its first word.
        word_end: Behind its last word.
    """

    text: str
    type: str
    start: int
    end: int
    score: float
    word_start: int
    word_end: int

    def record(self) -> dict[str, str | int | float]:
        """Its attributes by name, as `dataclasses.asdict` has them, without its deep copies."""
        return {name: getattr(self, name) for name in self.__slots__}


class Tagged(list[Entity]):
    """The entities of one post, and what else is known of it.

    Attributes:
        text: The post's text.
        words: Its words, with their places in the text.
        tags: A BIO tag for each word.
        has_image: Whether the model saw an image.
        image_problem: Why it did not see the image that was given; empty otherwise.
        context: The texts that the model read beside the post, one for each source.
        left_out: Entities whose score is below the tagger's `min_score`; their words are tagged `O`.
    """

    def __init__(
        self,
        entities: Iterable[Entity] = (),
        *,
        text: str = "",
        words: Sequence[Word] = (),
        tags: Sequence[str] = (),
        has_image: bool = False,
        image_problem: str = "",
        context: Sequence[str] = (),
        left_out: Sequence[Entity] = (),
    ) -> None:
        super().__init__(entities)
        self.text = text
        self.words = tuple(words)
        self.tags = tuple(tags)
        self.has_image = has_image
        self.image_problem = image_problem
        self.context = tuple(context)
        self.left_out = tuple(left_out)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from mner.html import entities_html

        return entities_html(self.text, self)


def posts_of(given: Any, image: Any = None, context: Context = None, words: Any = None) -> Post | list[Post]:
    """What a tagger was called with, as a post, or as a list of posts. A list is always one of posts.

    Raises:
        ValueError: If an image, a context or words are given beside a list or a whole post; or nothing is given.
        TypeError: If it is something else.

    >>> posts_of(["Anna", "Lagos"]) == [Post("Anna"), Post("Lagos")]
    True
    >>> posts_of(None, words=["Anna", "visits", "Lagos"]).words
    ['Anna', 'visits', 'Lagos']
    """
    if given is None or isinstance(given, str):
        return Post(text=given, words=words, image=image, context=context)
    if image is not None or context is not None or words is not None:
        raise ValueError("Expected images, contexts and words inside of the posts: Post(text, image=…)")
    if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)):
        return [Post.of(post) for post in given]
    return Post.of(given)


def _check_strings(value: Any, name: str) -> None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"Expected `{name}` of a post to be a list of strings, but got a {type(value).__name__}")
    for element in value:
        if not isinstance(element, str):
            raise TypeError(f"Expected `{name}` of a post to be strings, but got a {type(element).__name__} among them")


def _is_pil(value: object) -> bool:
    from PIL.Image import Image

    return isinstance(value, Image)


def groups(posts: Iterable[Post], size: int, ahead: int) -> Iterator[list[Post]]:
    """Posts for `ahead` batches of `size` each, but no more pictures than for one."""
    group: list[Post] = []
    pictures = 0
    for post in posts:
        group.append(post)
        pictures += len(post.images)
        if len(group) == size * ahead or pictures >= size:
            yield group
            group, pictures = [], 0
    if group:
        yield group
