"""What model and data must agree on, whoever made them: the tokeniser, the labels, the images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from mner.batch import Batch
from mner.data.tokenizer import PostTokenizer
from mner.errors import MNERError
from mner.labels import entity_types

SETTINGS = ("max_length", "replace_urls", "image_size")
"""Of a data module: what a checkpoint knows and a user need not repeat."""


class Model(Protocol):
    """What is asked of a model here; a `FusionModule` has it."""

    labels: list[str]
    uses_image: ClassVar[bool]
    text_alone: bool
    restored: dict[str, Any] | None

    @property
    def hparams(self) -> Any:
        """Its constructor's arguments."""


class Data(Protocol):
    """What is asked of a data module here; an `MNERDataModule` has it."""

    text_encoder: str | dict[str, Any] | None
    tokenizer: str | None
    max_length: int | None
    replace_urls: str | None
    tokenizer_given: bool

    @property
    def post_tokenizer(self) -> PostTokenizer:
        """Its tokeniser."""

    def tokenize_with(self, tokenizer: PostTokenizer) -> None:
        """Tokenise anew with another one."""


def tokenizer_of(model: Model, max_length: int | None = None, replace_urls: str | None = None) -> PostTokenizer | None:
    """The tokeniser that a model is trained with: its checkpoint's, or its text encoder's; None where nobody knows."""
    files = ((model.restored or {}).get("data") or {}).get("tokenizer")
    if files:
        return PostTokenizer.from_files(files, max_length, replace_urls)
    name = model.hparams.get("text_encoder")
    if not isinstance(name, str):
        return None
    try:
        return PostTokenizer(name, max_length, replace_urls)
    except (MNERError, OSError, ValueError):  # an encoder without a tokeniser; the data module has to name one
        return None


def agree(data: Data, model: Model) -> None:
    """Make a data module tokenise as the model was trained to, and take over what the model's checkpoint knows of it.

    Args:
        data: The data module; what was asked of it stays.
        model: The model that it serves, new or from a checkpoint.

    Raises:
        MNERError: If another tokeniser was asked for.
    """
    known = (model.restored or {}).get("data") or {}
    taken = [key for key in SETTINGS if getattr(data, key) is None and known.get(key) is not None]
    for key in taken:
        setattr(data, key, known[key])
    own = model.hparams.get("text_encoder")
    fresh = not known.get("tokenizer")
    if fresh and (data.tokenizer_given or data.tokenizer or (data.text_encoder == own and isinstance(own, str))):
        return  # the tokeniser was named, or is the encoder's own already
    wanted = tokenizer_of(model, data.max_length, data.replace_urls)
    if wanted is None:
        return
    asked_for = data.tokenizer or (data.text_encoder if data.text_encoder != own else None)
    if (asked_for or data.tokenizer_given) and data.post_tokenizer.fingerprint != wanted.fingerprint:
        raise MNERError(
            f"Expected the tokeniser that the model was trained with ({own!r}), but the data module was given "
            f"{asked_for or 'another one'!r}; leave out `text_encoder` and `tokenizer` of the data module, which takes "
            "them from the model"
        )
    if taken or data.post_tokenizer.fingerprint != wanted.fingerprint:
        data.tokenize_with(wanted)


def check_batch(model: Model, batch: Batch, tokenizer: str | None) -> None:
    """Refuse a batch that was not made for the model; loaders given by hand bring no data module to ask.

    Args:
        model: The model.
        batch: The batch. What it does not say of itself is not checked.
        tokenizer: Fingerprint of the model's tokeniser; None where nobody knows.

    Raises:
        MNERError: If its labels or word pieces are others, or images are missing.
    """
    labels: Sequence[str] = batch.get("labels", model.labels)
    if list(labels) != model.labels:
        raise MNERError(
            f"Expected a batch with the labels of the model, entity types {entity_types(model.labels)} in this order, "
            f"but got {entity_types(labels)}; use the data set of the model"
        )
    made_by = batch.get("tokenizer", tokenizer)
    if tokenizer is not None and made_by != tokenizer:
        raise MNERError(
            f"Expected word pieces of the model's tokeniser ({model.hparams.get('text_encoder')!r}), but the batch was "
            "made with another one; give the data module that makes the loader the model's `text_encoder`, or hand "
            "the data module itself to the Trainer"
        )
    if model.uses_image and not model.text_alone and "image" not in batch and "regions" not in batch:
        raise MNERError(
            f"Expected images or stored features for {type(model).__name__}, but the batch has neither: it would run "
            "on text alone. Give the data module `images` or `features`; to do without on purpose, set "
            "`text_alone = True` on the model"
        )
