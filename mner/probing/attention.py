"""Figure 1 from a checkpoint: where the model looks in the images of posts, beside gold and predicted entities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mner.analysis.attention_figure import plot_attention
from mner.analysis.systems import ArgumentError
from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Split
from mner.data.formats.images import ImageFolder
from mner.data.formats.predictions import Prediction
from mner.data.transforms import ImageTransform
from mner.files import output_folder
from mner.fusion.base import FusionModule
from mner.labels import spans
from mner.nn.attention_maps import capture_attention
from mner.probing.probe import restored_data
from mner.probing.runner import Runner, to_device
from mner.runtime import keep_memory, pick_device


class Look(NamedTuple):
    """One attention map of one post: who attends (None: the whole post) and the weights (r,)."""

    query: str | None
    weights: NDArray[np.float32]


def attention_of(runner: Runner, place: int) -> tuple[Prediction, list[Look]]:
    """The prediction of a post and its attention maps: one of the post as a whole, or one an entity.

    Where words attend apart, an entity's map is the mean over its words; entities are the predicted ones, or the gold
    ones if nothing is predicted. Of several modules that attend to regions the last is taken.

    Raises:
        ArgumentError: If the model attends to no regions.
    """
    item = runner.dataset[place]
    batch = to_device(runner.collate(runner.dataset)([item]), runner.device)
    with torch.no_grad(), capture_attention(runner.model) as seen:
        post: Prediction = runner.model.predict_step(batch, 0)[0]
    if not seen.maps:
        raise ArgumentError(
            f"{type(runner.model).__name__} attends to no image regions, so there is nothing to draw; "
            "VisualAttention, CoAttention, TransformerAttention and UnifiedMultimodalTransformer do"
        )
    weights = list(seen.maps.values())[-1][0].cpu().numpy()  # (queries, r)
    if len(weights) == 1:
        return post, [Look(None, weights[0])]
    entities = spans(post.pred) or spans(post.gold or ())
    return post, [
        Look(" ".join(post.words[entity.start : entity.end]), weights[entity.start : entity.end].mean(axis=0))
        for entity in entities
    ]


def seen_picture(image: Image.Image, transform: ImageTransform) -> NDArray[np.float32]:
    """The part of an image that a model sees, as colours (s, s, 3) from 0 to 1: a grid of attention lies over that."""
    pixels = transform(image).permute(1, 2, 0).numpy()  # (s, s, 3)
    shown: NDArray[np.float32] = np.clip(pixels * np.array(transform.std) + np.array(transform.mean), 0, 1)
    return shown


def attention_command(
    checkpoint: Path,
    root: Path,
    images: Path,
    features: str | None = None,
    context: list[str] | None = None,
    split: Split = "valid",
    posts: list[str] | None = None,
    count: int = 5,
    out: Path = Path("attention"),
    device: str = "auto",
    seed: int = 0,
) -> int:
    """Draw where a model looks in images, beside gold and predicted entities (Figure 1 of the paper).

    Args:
        checkpoint: The checkpoint that `mner fit` wrote.
        root: Folder of the data set.
        images: Folder of the pictures; with `features` they are drawn only, else the model sees them too.
        features: Folder of stored features, if the model was trained with these.
        context: Files of context texts, as in training.
        split: The split that the posts are of.
        posts: Ids of posts; if not given, posts with image and entities are drawn at random.
        count: How many to draw at random.
        out: Folder for the figures.
        device: Where to run, such as cpu or cuda; auto takes the accelerator if there is one.
        seed: Seed of the draw.

    Returns:
        Exit code 0.
    """
    keep_memory()
    model = FusionModule.load_from_checkpoint(checkpoint)
    data = restored_data(model, root, None if features else str(images), features, context or ())
    runner = Runner(model, data, data.dataset(split), str(pick_device(device)))
    folder = ImageFolder(images if images.is_dir() else root / images)
    wanted = len(posts) if posts is not None else count
    drawn = []
    with output_folder(out) as draft:
        for place in _candidates(runner, folder, posts, seed):
            if not wanted:
                break
            example = runner.dataset.examples[place]
            picture, reason = folder.load(example.image_id or "")
            if picture is None:
                print(f"{example.id}: no picture to draw on ({reason})")
                continue
            wanted -= 1
            post, looks = attention_of(runner, place)
            shown, boxes = _shown(data, runner, picture, example.image_id or "")
            for number, look in enumerate(looks, 1):
                size = len(boxes) if boxes is not None else look.weights.size
                figure = plot_attention(shown, look.weights[:size], post.words, post.gold, post.pred, boxes, look.query)
                name = "".join(character if character.isalnum() else "_" for character in post.id)
                figure.savefig(draft / f"{name}-{number}.png", dpi=150)
                drawn.append(out / f"{name}-{number}.png")
    for path in drawn:
        print(path)
    return 0


def _shown(
    data: MNERDataModule, runner: Runner, picture: Image.Image, image_id: str
) -> tuple[Image.Image | NDArray[np.float32], NDArray[np.float32] | None]:
    """What to draw under the attention: the whole picture with boxes, or the part under the grid."""
    store = data.store
    if store is not None and store.kind == "regions":
        return picture, store.boxes(image_id)
    transform = runner.dataset.transform
    if isinstance(transform, ImageTransform):
        return seen_picture(picture, transform), None
    if store is not None:
        return seen_picture(picture, ImageTransform(**store.meta["transform"])), None
    return picture, None


def _candidates(runner: Runner, folder: ImageFolder, posts: Sequence[str] | None, seed: int) -> list[int]:
    """The posts asked for, or all with entities and an image file, in random order."""
    examples = runner.dataset.examples
    if posts is not None:
        places = {example.id: place for place, example in enumerate(examples)}
        unknown = [post for post in posts if post not in places]
        if unknown:
            raise ArgumentError(f"Expected ids of posts of the split, but got {unknown}")
        return [places[post] for post in posts]
    fit = [
        place
        for place, example in enumerate(examples)
        if example.image_id is not None and example.image_id in folder and spans(example.tags or ())
    ]
    return [int(place) for place in np.random.default_rng(seed).permutation(fit)]
