"""Do the data fit the model, and the checkpoint that it comes from? Asked before training, not found out after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from mner.data.datamodules.base import MNERDataModule
from mner.data.inputs import OF_REGIONS
from mner.data.tokenizer import PostTokenizer
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import entity_types

log = logging.getLogger(__name__)
_TEXT_SETTINGS = ("context", "replace_urls", "max_length")
_STORE_FACTS = ("kind", "encoder", "width", "weights_hash")


class Served(Protocol):
    """What is asked of a model here; a `FusionModule` has it."""

    labels: list[str]
    uses_image: ClassVar[bool]
    needs: ClassVar[frozenset[str]]

    @property
    def hparams(self) -> Any:
        """Its constructor's arguments."""


def check_inputs(module: Served, data: MNERDataModule) -> None:
    """Compare labels and inputs of model and data; a strategy without its images would be text only, silently.

    The data module learns here what its batches have to carry.

    Raises:
        DataFormatError: If the labels differ, or images and stored features do not fit the model.
        DataNotFoundError: If the model uses images or needs something else and the data module has none.
    """
    data.serve(module)
    _check_regions(module, data)
    _check_needs(module, data)


def _check_needs(module: Served, data: MNERDataModule) -> None:
    """Refuse data that lack what the model needs; the message names the command or the option that makes it."""
    name, source = type(module).__name__, type(data).__name__
    if "object_names" in data.needs and data.names_from is None:
        raise DataNotFoundError(
            f"{name} needs object_names, but {source} has none: give it `features` of detected regions (`mner features "
            "--regions torchvision --images … --out …`), or `object_names`, a file of names (`mner objects --images … "
            "--out tags.jsonl --model …` writes those of a detector or of an ImageNet classifier), or a context source "
            "called tags"
        )
    if "relation" in data.needs and data.relations is None:
        raise DataNotFoundError(
            f"{name} needs relation, but {source} has no values: give it `relations`, a file with a line "
            "image_id<TAB>value for each image, 0 where it adds nothing to the text and 1 where it does (`mner "
            "relations POSTS --images … --out … --model …` writes how far each matches its text)"
        )
    if "contexts" in data.needs and len(data.context_names) < 2:
        raise DataNotFoundError(
            f"{name} needs contexts, texts of two sources or more, but {source} has {data.context_names or 'none'}: "
            "give its `context` a file for each, such as captions.jsonl (`mner caption`) and tags.jsonl (`mner "
            "features … --names_out`)"
        )
    of_regions = sorted(data.needs & OF_REGIONS)
    if of_regions and data.images is None and data.store is None:
        raise DataNotFoundError(
            f"{name} needs {' and '.join(of_regions)}, but {source} has no regions: give it `features` (`mner features "
            "--regions torchvision --images … --out …`), or `images`"
        )
    if "boxes" in data.needs and data.store is not None:
        data.store.check_sizes()
    data.post_inputs()  # reads the files that are named


def _check_regions(module: Served, data: MNERDataModule) -> None:
    name, source = type(module).__name__, type(data).__name__
    if list(data.labels) != module.labels:
        raise DataFormatError(
            data.root,
            None,
            f"entity types {entity_types(data.labels)} ({source})",
            f"{entity_types(module.labels)}, in this order, which the model was built for",
            "Choose the data module of the model's data set.",
        )
    given = {key: value for key in ("images", "features") if (value := getattr(data, key)) is not None}
    if not module.uses_image:
        if given:
            log.warning("%s uses no images, so %s of the data module is of no use", name, " and ".join(given))
        return
    encoder: str | None = module.hparams["image_encoder"]
    if not given:
        raise DataNotFoundError(
            f"{name} uses images, but {source} has none: it would be trained on text alone. Give `images` (a folder "
            "below root, with model.image_encoder) or `features` (from `mner features`) to the data module, or choose "
            "TextOnly."
        )
    if data.features is not None and encoder is not None:
        raise DataFormatError(
            data.features,
            None,
            f"stored features beside image_encoder={encoder!r}",
            "one of the two",
            "Leave out `image_encoder` to use the stored features, or `features` to use the images.",
        )
    if data.images is not None and encoder is None:
        raise DataFormatError(
            data.images,
            None,
            f"images for a {name} without image encoder",
            f"stored features of width {module.hparams['region_width']}, which it was built for",
            "Give the data module `features`, or the model `image_encoder`.",
        )
    if data.images is not None and data.image_encoder != encoder:
        raise DataFormatError(
            data.images,
            None,
            f"images prepared for {data.image_encoder!r}",
            f"images prepared for the model's image encoder {encoder!r}",
            "Give both the same `image_encoder`.",
        )
    if data.store is not None:
        data.store.check(width=module.hparams["region_width"])


def check_restored(data: MNERDataModule, restored: Mapping[str, Any], resumed: bool = False) -> None:
    """Compare the data with what a checkpoint says of those that it was trained on.

    Args:
        data: The data module.
        restored: What the checkpoint says, as `MNERDataModule.describe` gave it.
        resumed: Training goes on, so that the labels should be the same too.

    Raises:
        DataFormatError: If stored features come from another encoder or other weights.
    """
    if not restored:
        return
    now = data.describe_inputs()
    before = restored.get("features")
    if before and data.store is not None:
        for fact in _STORE_FACTS:
            if before.get(fact) != data.store.meta.get(fact):
                raise DataFormatError(
                    data.store.path,
                    None,
                    f"features with {fact} {data.store.meta.get(fact)!r}",
                    f"{fact} {before.get(fact)!r}, which the model was trained with",
                    "Extract features with that encoder and those weights (`mner features`).",
                )
    files = restored.get("tokenizer")
    if files and PostTokenizer.from_files(files).fingerprint != data.post_tokenizer.fingerprint:
        raise DataFormatError(
            data.root,
            None,
            "posts tokenised with another tokeniser",
            "the one that the checkpoint was trained with",
            "Leave out `text_encoder` and `tokenizer` of the data module and give the Trainer the model from "
            "`FusionModule.load_from_checkpoint`.",
        )
    settings = [*_TEXT_SETTINGS, *(["image_size"] if data.images is not None else [])]
    for key in settings:
        if key in restored and restored[key] != now[key]:
            log.warning("%s: the checkpoint was trained with %r, now it is %r", key, restored[key], now[key])
    splits = ("train", "valid") if resumed else ("valid",)
    for split in splits if restored.get("name") == type(data).__name__ else ():
        old, new = restored.get("fingerprints", {}).get(split), data.fingerprints.get(split)
        if old and new and old != new:
            log.warning(
                "%s: labels %s, but the checkpoint was trained beside %s; scores cannot be compared", split, new, old
            )
