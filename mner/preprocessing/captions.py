"""`mner caption`: captions of a folder of images, as a text source.

Chen et al. (2021) used the bottom-up and top-down captioner of Anderson et al. (2018), which nobody packages: its code
needs Caffe and its detector's own features. Any image-to-text model of transformers stands in for it here (BLIP, GIT,
ViT-GPT2, BLIP-2, ...), so captions, and scores that depend on them, differ from the paper's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image

from mner.data.formats.images import ImageFolder
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError
from mner.files import STANDARD, foreign
from mner.growing_file import Growing
from mner.preprocessing.base import Sweep
from mner.runtime import pick_device

CHAT_PROMPT = "Describe the image in one sentence."


class Captioner:
    """An image-to-text model of transformers: RGB images -> one caption each. Deterministic.

    Args:
        model: Name on the Hugging Face Hub, or a folder.
        max_new_tokens: Longest caption, in word pieces.
        num_beams: Beams of the search; None for the model's own setting.
        prompt: Text that the caption goes on from, or the question to a chat model (which gets a default one).
        device: `auto`, `cpu`, `cuda`, ...

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
    ) -> None:
        self.name = model
        self.device = pick_device(device)
        self.options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if num_beams is not None:
            self.options["num_beams"] = num_beams
        self._load(model)
        if self.tokenizer.pad_token_id is None:  # GPT-2 has none; pieces after the end are dropped anyway
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.model.generation_config.pad_token_id is None:
            self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        self.prompt = self._render(prompt)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption for each image."""
        if not images:
            return []
        if self.prompt is None:
            inputs = self.image_processor(images=list(images), return_tensors="pt")
        else:
            texts = [self.prompt] * len(images)
            inputs = self.processor(images=list(images), text=texts, return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)  # some tokenisers make them, and no model here takes them
        inputs = inputs.to(self.device)
        if inputs["pixel_values"].is_floating_point():
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
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

    def _render(self, prompt: str | None) -> str | None:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt or CHAT_PROMPT}]
            messages = [{"role": "user", "content": content}]
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))
        if prompt is not None and self.processor is None:
            raise ValueError(f"{self.name!r} takes no prompt; leave `prompt` out")
        return prompt


def caption(
    images: Path,
    out: Path,
    model: str,
    batch_size: int = 16,
    max_new_tokens: int = 30,
    num_beams: int | None = None,
    prompt: str | None = None,
    device: str = "auto",
    num_workers: int = 2,
) -> None:
    """Caption all images in a folder.

    Run again, it goes on where it stopped; run with another folder of images and the same `out`, it adds to the file.
    Broken images are reported at the end. The captions are lines `{"image_id": ..., "caption": ..., "model": ...}`.

    Args:
        images: Folder with the images.
        out: JSON lines file; `-` is the standard output. It goes on only with the same model and options, which
            OUT.mner.json keeps.
        model: Image-to-text model of transformers: name on the Hugging Face Hub, or a folder. The captioner of Chen et
            al. (2021), of Anderson et al. (2018), is not among them, since nobody packages it.
        batch_size: Images in a batch.
        max_new_tokens: Longest caption, in word pieces.
        num_beams: Beams of the search; None for the model's own setting.
        prompt: Text that the caption goes on from, or the question to a chat model.
        device: `auto`, `cpu`, `cuda`, ...
        num_workers: Processes that open images.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds something else, or captions of another model.
        CheckpointError: If the model can't be used.
    """
    folder = ImageFolder(images)
    if not len(folder):
        raise DataNotFoundError(f"No images in {images}; sub-folders are not searched, so name the folder itself")
    facts = {"model": model, "max_new_tokens": max_new_tokens, "num_beams": num_beams, "prompt": prompt}
    growing = None if str(out) == STANDARD else Growing(out, facts, [images])
    try:
        done = set() if growing is None or not out.is_file() else _resume(growing.files[out], out, model)
        captioner = Captioner(model, max_new_tokens, num_beams, prompt, device)
        sweep = Sweep(folder, done, batch_size, num_workers, title=f"captions by {model}")
        for keys, opened in sweep:
            for key, text in zip(keys, captioner(opened), strict=True):
                line = json.dumps({"image_id": key, "caption": text, "model": model}, ensure_ascii=False) + "\n"
                if growing is None:
                    sys.stdout.write(line)
                else:
                    growing.write(out, line.encode(errors="replace"))
            if growing is not None:
                growing.flush()
    finally:
        if growing is not None:
            growing.close()
    print(sweep.report(), file=sys.stderr)


def _resume(file: BinaryIO, path: Path, model: str) -> set[str]:
    """Names of images that have their caption. A last line that a kill cut off is removed."""
    file.seek(0)
    raw = file.read()
    end = raw.rfind(b"\n") + 1
    start, rest = b'{"image_id": ', raw[end:]
    if not rest.startswith(start) and not start.startswith(rest):
        raise foreign(path, raw[:end].count(b"\n") + 1, repr(rest[:80]))
    done = set()
    for number, line in enumerate(raw[:end].split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            key, by, _ = record["image_id"], record["model"], record["caption"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise foreign(path, number, repr(line[:80])) from None
        if by != model:
            found, expected = f"a caption by {by!r}", f"one model in a file ({model!r})"
            raise DataFormatError(path, number, found, expected, "Name another file.")
        done.add(key)
    if rest:
        file.truncate(end)
    return done
