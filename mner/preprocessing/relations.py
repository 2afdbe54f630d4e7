"""`mner relations`: how far the image of a post matches its text, by an image-text model, as relations.

The relations that Sun et al. (2020, 2021) trained with are labels of people, for tweets of another set. An image-text
model needs none: what it says is whether an image shows what the text tells, a soft value for any post.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mner.data.examples import Example
from mner.data.formats.images import ImageFolder, image_key
from mner.errors import CheckpointError, DataNotFoundError
from mner.files import digest
from mner.preprocessing.base import Sweep
from mner.preprocessing.growing_texts import GrowingTexts
from mner.preprocessing.retrieval import read_all_posts
from mner.runtime import pick_device

WEIGHT = 2.5
"""What CLIPScore multiplies a cosine by, so that it fills 0 to 1 (Hessel et al. 2021)."""


class ImageTextMatching:
    """RGB images, and the texts of each -> how far image and texts match, from 0 to 1.

    ::

        CLIP:    min(1, 2.5 max(0, cos(image, text)))        CLIPScore, Hessel et al. (2021)
        SigLIP:  sigmoid(scale · cos(image, text) + bias)    its own probability of a pair

    The mean over an image's texts. Texts are cut where the model's positions end. CLIPScore's "A photo depicts" is not
    put before a text: a post is no caption.

    Args:
        model: Image-text model of transformers (CLIP, SigLIP, ...): name on the Hugging Face Hub, or a folder.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: If it can't be loaded, compares no images with texts, or lacks weights.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        from transformers import AutoModel, AutoProcessor

        self.device = pick_device(device)
        try:
            loaded, loading = AutoModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
            self.processor = AutoProcessor.from_pretrained(model)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(
                f"{model!r} cannot be used as an image-text model of transformers: {error}"
            ) from error
        if not (hasattr(loaded, "logit_scale") and hasattr(self.processor, "image_processor")):
            kind = type(loaded).__name__
            raise CheckpointError(f"Expected a model that compares images with texts, such as a CLIP, but got a {kind}")
        if missing := sorted(loading["missing_keys"]):
            told = ", ".join(missing[:3])
            raise CheckpointError(f"{model!r} lacks {len(missing)} weights ({told}, ...); its relations would be noise")
        self.model: Any = loaded.to(self.device).eval()
        limit = self.model.config.text_config.max_position_embeddings
        self._options: dict[str, Any] = {
            "truncation": True, "max_length": min(limit, self.processor.tokenizer.model_max_length),
            # SigLIP reads its last position, and was trained on padded texts.
            "padding": "max_length" if hasattr(self.model, "logit_bias") else True,
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[float]:
        """One value for each image, whose texts are a list of at least one."""
        if not images:
            return []
        flat = [text for some in texts for text in some]
        inputs = self.processor(text=flat, images=list(images), return_tensors="pt", **self._options).to(self.device)
        found = self.model(**inputs)
        owner = torch.repeat_interleave(torch.tensor([len(some) for some in texts])).to(self.device)
        cosines = torch.cosine_similarity(found.image_embeds[owner], found.text_embeds)
        if hasattr(self.model, "logit_bias"):
            values = (self.model.logit_scale.exp() * cosines + self.model.logit_bias).sigmoid()
        else:
            values = (WEIGHT * cosines).clamp(0, 1)
        sums = torch.zeros(len(images), device=self.device).index_add_(0, owner, values)
        return [float(value) for value in sums / owner.bincount()]


class PostImages(ImageFolder):
    """The images of a folder that posts have, with the texts of those posts.

    Args:
        folder: The images.
        posts: The posts.

    Attributes:
        texts: By image id, the words of each of its posts.
    """

    def __init__(self, folder: Path, posts: Iterable[Example]) -> None:
        super().__init__(folder)
        self.unusable = []  # of which no post knows
        by_key: dict[str, tuple[str, list[str]]] = {}
        for post in posts:
            for image_id in post.image_ids:
                by_key.setdefault(image_key(image_id), (image_id, []))[1].append(" ".join(post.words))
        self.texts: Mapping[str, list[str]] = dict(by_key.values())

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        yield from self.texts


def relations(
    posts: Path,
    images: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    batch_size: int = 16,
    device: str = "auto",
    num_workers: int = 2,
) -> None:
    """Tell how far the image of each post matches its text, for `--data.relations`.

    Run again, it goes on where it stopped. The values are lines `{"image_id": ..., "relation": 0.61, "model": ...}`; of
    an image that several posts share it is the mean. Images that are missing or broken are reported, and have no line.

    Args:
        posts: File of posts, or folder whose splits are all taken.
        images: Folder with the posts' images.
        out: JSON lines file; `-` is the standard output. It goes on only with the same posts and model, which
            OUT.mner.json keeps.
        model: Image-text model of transformers, such as `openai/clip-vit-base-patch32` or
            `google/siglip-base-patch16-224`: name on the Hugging Face Hub, or a folder.
        batch_size: Images in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        num_workers: Processes that open images.

    Raises:
        DataNotFoundError: If posts or images are missing, or an option.
        DataFormatError: If `out` holds something else, or was made otherwise.
        CheckpointError: If the model can't be used.
    """
    if images is None or out is None or model is None:
        lacking = "--images" if images is None else "--out" if out is None else "--model"
        raise DataNotFoundError(f"Expected {lacking}, but got none")
    pictured = PostImages(images, read_all_posts(posts))
    if not len(pictured):
        raise DataNotFoundError(f"None of the posts in {posts} has an image, so that there is nothing to compare")
    facts = {"model": model, "posts": digest(posts) if posts.is_file() else str(posts.resolve())}
    with GrowingTexts(out, "relation", facts, [posts, images]) as values:
        match = ImageTextMatching(model, device)
        sweep = Sweep(pictured, values.done, batch_size, num_workers, title=f"relations by {model}")
        for names, opened in sweep:
            found = match(opened, [pictured.texts[name] for name in names])
            values.write(names, [round(value, 4) for value in found])
    print(sweep.report(), file=sys.stderr)
