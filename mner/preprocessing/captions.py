"""`mner caption`: captions of a folder of images, as a text source.

Any image-to-text model of transformers makes them (BLIP, GIT, ViT-GPT2, BLIP-2, ...), or public weights of VirTex, or
those of the bottom-up and top-down captioner of Anderson et al. (2018), which Chen et al. (2021) used. That one reads
the regions of its own detector, which nobody packages; with another captioner, scores that depend on captions differ
from the paper's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder
from mner.errors import CheckpointError
from mner.preprocessing.base import StoredRegions
from mner.preprocessing.image_texts import Describe, describe_images
from mner.preprocessing.updown import UpDownCaptioner
from mner.preprocessing.virtex import VirTexCaptioner
from mner.runtime import LOWER, Precision, automatic_precision, pick_device

VIRTEX, UPDOWN = "virtex:", "updown:"
"""How names of models begin that are files of public weights."""
CHAT_PROMPT = "Describe the image in one sentence."


class Captioner:
    """An image-to-text model of transformers: RGB images -> one caption each. Deterministic.

    Args:
        model: Name on the Hugging Face Hub, or a folder.
        max_new_tokens: Longest caption, in word pieces.
        num_beams: Beams of the search; None for the model's own setting.
        prompt: Text that the caption goes on from, or the question to a chat model (which gets a default one).
        device: `auto`, `cpu`, `cuda`, ...
        precision: What it computes in.

    Raises:
        CheckpointError: If the model can't be loaded, is no image-to-text model, or lacks weights.
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 30,
        num_beams: int | None = None,
        prompt: str | None = None,
        device: str = "auto",
        precision: Precision = "32-true",
    ) -> None:
        self.name = model
        self.device = pick_device(device)
        self.lower = LOWER[precision]
        self.options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if num_beams is not None:
            self.options["num_beams"] = num_beams
        self._load(model)
        if self.tokenizer.pad_token_id is None:  # GPT-2 has none; pieces after the end are dropped anyway
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.model.generation_config.pad_token_id is None:
            self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        self.prompt = self.render(prompt)

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption for each image."""
        return self.answer(images, None if self.prompt is None else [self.prompt] * len(images)) if images else []

    @torch.no_grad()
    def answer(self, images: Sequence[Image.Image], prompts: Sequence[str] | None) -> list[str]:
        """What the model says to each image with its prompt, as `render` makes it; or to prompts without images."""
        if prompts is None:
            inputs = self.image_processor(images=list(images), return_tensors="pt")
        else:
            shown = {"images": list(images)} if images else {}
            inputs = self.processor(**shown, text=list(prompts), return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)  # some tokenisers make them, and no model here takes them
        inputs = inputs.to(self.device)
        if images and inputs["pixel_values"].is_floating_point():
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with torch.autocast(self.device.type, self.lower, enabled=self.lower is not None):
            pieces = self.model.generate(**inputs, **self.options)
        given = inputs.get("input_ids")
        if given is not None and torch.equal(pieces[:, : given.shape[1]], given):
            pieces = pieces[:, given.shape[1] :]  # a decoder that repeats what it was asked
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(pieces, skip_special_tokens=True)]

    def _load(self, name: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        # Half precision, which some checkpoints are stored in, is slow on a processor.
        dtype: Any = torch.float32 if self.device.type == "cpu" else "auto"
        try:
            model, loading = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, output_loading_info=True)
            processor = AutoProcessor.from_pretrained(name)
            if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
                self.processor, self.image_processor, self.tokenizer = (
                    processor,
                    processor.image_processor,
                    processor.tokenizer,
                )
            else:  # older folders hold the two, but no processor
                self.processor = None
                self.image_processor = AutoImageProcessor.from_pretrained(name)
                self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(
                f"{name!r} cannot be used as an image-to-text model of transformers: {error}"
            ) from error
        missing = [key for key in loading["missing_keys"] if "pooler" not in key]  # poolers play no part in generation
        if missing:
            raise CheckpointError(
                f"{name!r} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(sorted(missing)[:3])}, "
                "...); its captions would be noise"
            )
        self.model: Any = model.to(self.device).eval()

    def render(self, prompt: str | None, image: bool = True) -> str | None:
        """A prompt as the model takes it, beside an image or without; None for a model that takes none."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}] * image + [{"type": "text", "text": prompt or CHAT_PROMPT}]
            messages = [{"role": "user", "content": content}]
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))
        if prompt is not None and self.processor is None:
            raise ValueError(f"{self.name!r} takes no prompt; leave `prompt` out")
        return prompt


def load_captioner(
    model: str,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    prompt: str | None = None,
    device: str = "auto",
    vocabulary: Path | None = None,
    precision: Precision = "32-true",
) -> Captioner | VirTexCaptioner:
    """A captioner of images by the name of its model, `virtex:FILE` or one of transformers.

    Args:
        model: See `caption`.
        max_new_tokens: See `caption`.
        num_beams: See `caption`.
        prompt: See `caption`.
        device: See `caption`.
        vocabulary: See `caption`.
        precision: See `caption`.

    Raises:
        CheckpointError: If the model can't be used, or describes regions and no images.
        ValueError: If an option is of no use to it.
    """
    if model.startswith(UPDOWN):
        raise CheckpointError(f"{model!r} describes stored regions (`mner caption`), and no images by themselves")
    if model.startswith(VIRTEX):
        _refuse_prompt(model, prompt)
        _refuse_precision(model, precision)
        return VirTexCaptioner(model.removeprefix(VIRTEX), vocabulary, max_new_tokens, num_beams, device)
    if vocabulary is not None:
        raise ValueError(f"{model!r} has its own vocabulary; leave `vocabulary` out")
    return Captioner(model, max_new_tokens or 30, num_beams, prompt, device, precision)


def caption(
    images: Path,
    out: Path,
    model: str,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    prompt: str | None = None,
    device: str = "auto",
    num_workers: int = 2,
    vocabulary: Path | None = None,
    precision: Precision | Literal["auto"] = "32-true",
) -> None:
    """Caption all images in a folder.

    Run again, it goes on where it stopped; run with another folder of images and the same `out`, it adds to the file.
    Broken images are reported at the end. The captions are lines `{"image_id": ..., "caption": ..., "model": ...}`.

    Args:
        images: Folder with the images; for `updown:`, the store of their regions (`mner features`).
        out: JSON lines file; `-` is the standard output. It goes on only with the same model and options, which
            OUT.mner.json keeps.
        model: Image-to-text model of transformers: name on the Hugging Face Hub, or a folder. Or `virtex:FILE`, public
            weights of VirTex, or `updown:FILE`, those of the PyTorch port of Anderson et al. (2018), the captioner of
            Chen et al. (2021), which reads the regions of the detector that it was trained with.
        batch_size: Images in a batch.
        max_new_tokens: Longest caption, in word pieces; None for 30, or 20 words by `updown:`.
        num_beams: Beams of the search; None for the model's own setting, or 5 with `virtex:` and `updown:`.
        prompt: Text that the caption goes on from, or the question to a chat model.
        device: `auto`, `cpu`, `cuda`, ...
        num_workers: Processes that open images.
        vocabulary: With `virtex:` and `updown:`, the file of words that belongs to the weights (`coco_10k.model`;
            `infos_*.pkl` or `cocotalk.json`); None for the one beside them.
        precision: What a model of transformers computes in; `auto` is what the machine does best. A file has one.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds something else, or captions of another model.
        CheckpointError: If the model can't be used.
    """
    of_regions = model.startswith(UPDOWN)
    if precision == "auto":
        own = model.startswith((UPDOWN, VIRTEX))
        precision = "32-true" if own else automatic_precision(pick_device(device), training=False)
        print(f"precision auto: {precision}", file=sys.stderr)
    longest = max_new_tokens or (20 if of_regions else 30)
    facts: dict[str, Any] = {"model": model, "max_new_tokens": longest, "num_beams": num_beams, "prompt": prompt}
    facts["vocabulary"] = None if vocabulary is None else str(vocabulary)
    facts |= {"precision": precision} if precision != "32-true" else {}

    def load() -> Describe:
        if not isinstance(source, StoredRegions):
            return load_captioner(model, longest, num_beams, prompt, device, vocabulary, precision)
        _refuse_prompt(model, prompt)
        _refuse_precision(model, precision)
        captioner = UpDownCaptioner(model.removeprefix(UPDOWN), vocabulary, longest, num_beams, device)
        source.store.check(width=captioner.model.region_width)
        return captioner

    source = StoredRegions(FeatureStore(images)) if of_regions else ImageFolder(images)
    describe_images(source, out, "caption", facts, load, batch_size, num_workers, f"captions by {model}")


def _refuse_prompt(model: str, prompt: str | None) -> None:
    if prompt is not None:
        raise ValueError(f"{model!r} takes no prompt; leave `prompt` out")


def _refuse_precision(model: str, precision: Precision) -> None:
    if precision != "32-true":
        raise ValueError(f"{model!r} computes in float32; leave `precision` out")
