"""`mner notes`: what a language model says of each post, as a text source.

Li et al. (2023, PGIM) let ChatGPT say which entities a post names and why, and tag the post with that beside it. Any
causal or vision-language model of transformers does, or one behind an address that speaks as OpenAI's. Such notes name
most entities themselves: how many is counted where the posts have gold tags, and kept beside them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mner.data.examples import Example
from mner.data.formats.context import Texts, find_text, read_context
from mner.data.formats.images import ImageFolder
from mner.data.leakage import leakage
from mner.errors import CheckpointError, DataNotFoundError
from mner.files import STANDARD, digest, write_text
from mner.preprocessing.captions import Captioner
from mner.preprocessing.chat_address import Answer, Ask, ChatAddress
from mner.preprocessing.growing_texts import GrowingTexts
from mner.preprocessing.retrieval import read_all_posts
from mner.runtime import pick_device

PROMPT = """\
Here is a post from social media. It may come with an image, or with a text about one; the two may or may not belong \
together. Which named entities (persons, organizations, locations, other names) are in the text of the post, and of \
which type is each? List them as "Named entities: 1. name (type) 2. ...", then explain your judgment after "Reasoning:".
Text: {text}
Image: {context}
"""
"""The form of PGIM's notes (Li et al. 2023): entities with types, then reasons. The words are ours."""
MARK = '"mner_leakage": 1'
"""What counts beside notes begin with."""


class Writer(Protocol):
    """Answers prompts."""

    name: str

    def __call__(self, asked: Sequence[Ask]) -> list[Answer]:
        """One answer each."""


class LocalModel:
    """A causal or vision-language model of transformers. Deterministic.

    Args:
        model: Hub name or folder.
        max_new_tokens: Longest text, in word pieces.
        device: `auto`, `cpu`, `cuda`, ...

    Attributes:
        sees: Whether it reads images.

    Raises:
        CheckpointError: If it can't be loaded, or writes no text.
    """

    def __init__(self, model: str, max_new_tokens: int = 200, device: str = "auto") -> None:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        self.name, self.device, self.max_new_tokens = model, pick_device(device), max_new_tokens
        try:
            self.sees = AutoConfig.from_pretrained(model).model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{model!r} cannot be used as a model of transformers: {error}") from error
        if self.sees:
            self._captioner = Captioner(model, max_new_tokens, device=device)
            self._captioner.tokenizer.padding_side = "left"  # texts go on at their right
        else:
            self._load()

    def __call__(self, asked: Sequence[Ask]) -> list[Answer]:
        """One answer each."""
        found: list[Answer] = [Answer("", "no image, which the model needs")] * len(asked)
        seen = [place for place, ask in enumerate(asked) if self.sees and ask.image is not None]
        blind = [place for place, ask in enumerate(asked) if not self.sees or ask.image is None]
        if seen:
            prompts = [str(self._captioner.render(asked[place].prompt)) for place in seen]
            images = [image for place in seen if (image := asked[place].image) is not None]
            found = _put(found, seen, self._captioner.answer(images, prompts))
        if blind and (not self.sees or getattr(self._captioner.processor, "chat_template", None)):
            found = _put(found, blind, self._write([asked[place].prompt for place in blind]))
        return found

    @torch.no_grad()
    def _write(self, prompts: Sequence[str]) -> list[str]:
        if self.sees:
            return self._captioner.answer([], [str(self._captioner.render(prompt, image=False)) for prompt in prompts])
        chats = bool(self._tokenizer.chat_template)
        if chats:
            told = [[{"role": "user", "content": prompt}] for prompt in prompts]
            options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
            prompts = [self._tokenizer.apply_chat_template(one, **options) for one in told]
        inputs = self._tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=not chats)
        inputs.pop("token_type_ids", None)
        longest = inputs["input_ids"].shape[1]
        room = (getattr(self._model.config, "max_position_embeddings", None) or 1 << 20) - self.max_new_tokens
        if longest > room:
            raise ValueError(
                f"Expected prompts of {room} word pieces at most, which {self.name!r} has room for beside "
                f"{self.max_new_tokens} new ones, but one has {longest}; shorten the prompt or `max_new_tokens`"
            )
        pieces = self._model.generate(**inputs.to(self.device), max_new_tokens=self.max_new_tokens, do_sample=False)
        texts: list[str] = self._tokenizer.batch_decode(pieces[:, longest:], skip_special_tokens=True)
        return texts

    def _load(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # Half precision, which some checkpoints are stored in, is slow on a processor.
        dtype: Any = torch.float32 if self.device.type == "cpu" else "auto"
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(self.name, dtype=dtype, output_loading_info=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(self.name, padding_side="left")
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(f"{self.name!r} cannot be used as a causal language model: {error}") from error
        if loading["missing_keys"]:
            missing = sorted(loading["missing_keys"])
            raise CheckpointError(f"{self.name!r} lacks {len(missing)} weights, such as {missing[0]}")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if model.generation_config.pad_token_id is None:
            model.generation_config.pad_token_id = self._tokenizer.pad_token_id
        self._model: Any = model.to(self.device).eval()


def _put(found: list[Answer], places: Sequence[int], texts: Sequence[str]) -> list[Answer]:
    answers = dict(zip(places, texts, strict=True))
    return [Answer(answers[place]) if place in answers else one for place, one in enumerate(found)]


def fill(template: str, post: Example, context: str) -> str:
    """A prompt: `{text}` and `{context}` of a template replaced; other brackets stay as they are.

    >>> fill("Say {what}: {text} ({context})", Example("1", None, ("a", "{context}")), "a cat")
    'Say {what}: a {context} (a cat)'
    """
    parts = template.split("{text}")
    return " ".join(post.words).join(part.replace("{context}", context) for part in parts)


def notes(
    posts: Path,
    out: Path | None = None,
    model: str | None = None,
    url: str | None = None,
    images: Path | None = None,
    context: Path | None = None,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    max_new_tokens: int = 200,
    batch_size: int = 8,
    device: str = "auto",
    key_variable: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
    retries: int = 5,
    requests_per_minute: float | None = None,
) -> None:
    """Let a language model write a text about each post.

    Run again, it goes on where it stopped. The texts are lines `{"id": ..., "text": ..., "model": ...}`; one that could
    not be had is empty, with the reason under `problem`. How many gold entities they name is printed and written to
    OUT.leakage.json, if the posts have gold tags.

    Args:
        posts: File of posts, or folder whose splits are all taken.
        out: JSON lines file; `-` is the standard output. It goes on only with the same posts, model, prompt and
            options, which OUT.mner.json keeps.
        model: Causal or vision-language model of transformers (Hub name or folder); with `url`, the model's name there.
        url: Address that speaks as OpenAI's, such as http://localhost:8000/v1.
        images: Folder with the posts' images, for models that see. None: the texts alone.
        context: File of texts about the posts or images, such as captions, for `{context}` in the prompt.
        prompt: Template with `{text}` and, if wanted, `{context}`; None for one that asks for entities, types and
            reasons, the form of PGIM's notes.
        prompt_file: File with the template.
        max_new_tokens: Longest text, in word pieces.
        batch_size: Posts at a time; requests at a time with `url`.
        device: `auto`, `cpu`, `cuda`, ...
        key_variable: With `url`: environment variable that has the key.
        timeout: With `url`: seconds to wait for a reply.
        retries: With `url`: most further tries of a request.
        requests_per_minute: With `url`: most requests; None for no limit.

    Raises:
        DataNotFoundError: If posts, images or texts are missing.
        DataFormatError: If `out` holds something else, or was made otherwise.
        CheckpointError: If the model can't be used.
        MNERError: If the address gives no answer.
    """
    if out is None or model is None:
        raise DataNotFoundError(f"Expected {'--out' if out is None else '--model'}, but got none")
    if prompt is not None and prompt_file is not None:
        raise ValueError("Expected --prompt or --prompt_file, but got both")
    template = prompt_file.read_text(encoding="utf-8") if prompt_file is not None else prompt or PROMPT
    if "{text}" not in template:
        raise ValueError("Expected a prompt with {text}, where the post goes, but it has none")
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(f"Expected `batch_size`, `max_new_tokens` of at least 1, got {batch_size}, {max_new_tokens}")
    examples = read_all_posts(posts)
    folder = None if images is None else ImageFolder(images)
    texts = Texts({}, {}) if context is None else read_context(context)
    facts = {
        "model": model, "url": url, "prompt": template, "max_new_tokens": max_new_tokens,
        "posts": digest(posts) if posts.is_file() else str(posts.resolve()),
        "images": None if images is None else str(images.resolve()),
        "context": None if context is None else digest(context),
    }  # fmt: skip

    def load() -> Writer:
        if url is None:
            return LocalModel(model, max_new_tokens, device)
        return ChatAddress(url, model, max_new_tokens, key_variable, timeout, retries, requests_per_minute, batch_size)

    inputs = [place for place in (posts, images, context) if place is not None]
    with GrowingTexts(out, "text", facts, inputs, "id") as growing:
        wanted = [post for post in examples if post.id not in growing.done]
        asks = ((post, _ask(post, template, texts, folder)) for post in wanted)
        problems = _write_all(growing, asks, len(examples), len(wanted), load, batch_size) if wanted else Counter()
    done = f"{len(wanted)} posts done"
    done += f", {len(examples) - len(wanted)} were done before" if len(examples) > len(wanted) else ""
    told = [done, *(f"{count} posts without a text: {problem}" for problem, count in problems.items())]
    if str(out) != STANDARD:
        found = leakage(examples, read_context(out))
        told.append(found.report())
        content = json.dumps({"mner_leakage": 1, "texts": out.name, "model": model, **found.facts()}, indent=1) + "\n"
        write_text(out.with_name(f"{out.name}.leakage.json"), content, MARK, inputs)
    print("\n".join(told), file=sys.stderr)


def _write_all(
    growing: GrowingTexts,
    asks: Iterator[tuple[Example, Ask]],
    total: int,
    wanted: int,
    load: Callable[[], Writer],
    batch_size: int,
) -> Counter[str]:
    writer = load()
    problems: Counter[str] = Counter()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        bar = progress.add_task(f"notes by {writer.name}", total=total, completed=total - wanted)
        while batch := list(islice(asks, batch_size)):
            answers = writer([ask for _, ask in batch])
            shown = [" ".join(answer.text.split()) for answer in answers]
            more = [{"problem": answer.problem} if answer.problem else {} for answer in answers]
            growing.write([post.id for post, _ in batch], shown, more)
            problems.update(answer.problem for answer in answers if answer.problem)
            progress.update(bar, advance=len(batch))
    return problems


def _ask(post: Example, template: str, texts: Texts, folder: ImageFolder | None) -> Ask:
    image: Image.Image | None = None
    if folder is not None and post.image_id is not None:
        image, _ = folder.load(post.image_id)
    return Ask(fill(template, post, find_text(texts, post)), image)
