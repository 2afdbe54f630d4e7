"""`check_fusion`: does a strategy hold what every strategy of the library holds? For tests of your own classes."""

from __future__ import annotations

import copy
import logging
import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mner.data.sample.batches import NO_ENTITY, NO_IMAGE, ONE_WORD, Fields, Images, SampleBatches, padded, rearranged
from mner.fusion import FusionModule, capture_attention


class FusionCheckError(AssertionError):
    """A strategy fails: `problems` has one line for each thing, which begins with the name of the check."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(name, self.problems)

    def __str__(self) -> str:
        return "\n- ".join([f"{self.args[0]} does not hold what every strategy must:", *self.problems])


def check_fusion(cls: type[FusionModule], **options: Any) -> None:
    """Try a strategy on six posts of the sample data, in the ways in which strategies go wrong silently.

    `CHECKS` lists the ways; docs/testing.md explains them. A strategy is tried after three steps of training, so that
    nothing stands at 0 any more. It gets stored regions (random numbers), or drawn images if `image_encoder` is given.
    Class attributes that are read, where there are any:

    - `needs`: inputs beyond regions, of those in `mner.data.inputs`, which are then made up too.
    - `region_order_matters`: True spares the strategy the check of the regions' order.
    - `refuses_compile`: why `torch.compile` cannot trace it; printed in place of that check.

    Random numbers come from generators of its own: each call does the same, and the caller's are left as they were.

    Args:
        cls: The strategy.
        options: For its constructor; `labels` are given. A `text_encoder` must come with its tokeniser.

    Raises:
        FusionCheckError: If anything fails, with a line for each; the first exception that was met is its cause.

    >>> from mner.fusion import TextOnly
    >>> check_fusion(TextOnly, hidden_size=16)
    """
    __tracebackhide__ = True  # pytest then shows the lines of the problems, not these
    problems: list[str] = []
    cause: Exception | None = None
    with _undisturbed():
        try:
            subject = _Subject(cls, options)
        except Exception as error:
            raise FusionCheckError(cls.__name__, [f"constructor: {_raised(error)}"]) from error
        for name, check in CHECKS.items():
            torch.default_generator.manual_seed(0)
            try:
                problems += (f"{name}: {line}" for line in check(subject))
            except Exception as error:
                problems.append(f"{name}: {_raised(error)}")
                cause = cause or error
            if problems and check is _emissions:
                break  # the others would all say the same
    if problems:
        raise FusionCheckError(cls.__name__, problems) from cause


class _Subject:
    """A strategy, and batches to try it on."""

    def __init__(self, cls: type[FusionModule], options: Fields) -> None:
        self.cls = cls
        encoder, width = options.get("image_encoder"), options.get("region_width") or 12
        self.batch = SampleBatches(options.get("text_encoder", "tiny"), encoder, width, getattr(cls, "needs", ()))
        if cls.uses_image:  # timm's own weights would be downloaded
            options = {"image_weights": None, **options} if encoder else {**options, "region_width": width}
        self.module: Any = cls(self.batch.labels, **options).eval()
        if cls.uses_image and encoder:
            self.batch.cells = self.stored()["regions"].shape[1]

    def still(self, training: bool = False) -> Any:
        """A copy of the strategy without dropout."""
        module = copy.deepcopy(self.module).train(training)
        for part in module.modules():
            for name, value in vars(part).items():
                if isinstance(value, float) and ("drop" in name or (name == "p" and "Dropout" in type(part).__name__)):
                    setattr(part, name, 0.0)
        if getattr(module, "image_encoder", None) is not None:
            module.image_encoder.eval()  # timm's BatchNorm is its own affair
        return module

    def stored(self) -> Fields:
        """The six posts with regions in place of images, as if they had been stored."""
        batch = self.batch()
        if "image" not in batch:
            return batch
        regions = self.module.image_encoder(batch.pop("image")).detach()
        mask = batch["has_image"][:, None].expand(regions.shape[:2])
        return {**batch, "regions": regions.masked_fill(~mask[..., None], 0.0), "region_mask": mask}


def _emissions(subject: _Subject) -> Iterator[str]:
    batch = subject.batch()
    scores, expected = subject.module.emissions(batch), (*batch["word_mask"].shape, len(subject.module.labels))
    if tuple(scores.shape) != expected:
        yield f"expected shape (b, w, l) = {expected}, but got {tuple(scores.shape)}"
        return
    if not scores[batch["word_mask"]].isfinite().all():
        yield "some are not finite"
    lengths, words = [len(path) for path in subject.module(batch)], [len(post) for post in batch["words"]]
    if lengths != words:
        yield f"expected a label for each word, {words} in the posts, but forward gives {lengths}"


def _gradient(subject: _Subject) -> Iterator[str]:
    """Three steps, with images, without, and with; the other checks then see what has learnt a little."""
    module = copy.deepcopy(subject.module).train()
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(learning.values(), lr=1e-2)
    unreached, idle = set(learning), set(learning)
    steps: tuple[Images, ...] = ("given", "missing", "given")
    for images in steps:
        optimizer.zero_grad()
        torch.autograd.backward(_loss(module, subject.batch(images=images)))
        found = {name: value.grad for name, value in learning.items() if value.grad is not None}
        unreached -= set(found)
        idle -= {name for name, gradient in found.items() if gradient.any()}
        if all(gradient.isfinite().all() for gradient in found.values()):
            optimizer.step()
    subject.module = module.eval()
    for name in learning:
        if name in unreached:
            yield f"{name} has none, with images and without"
        # A bias before a softmax, such as a key's, cancels there; if its layer were idle, so would its weight be.
        elif name in idle and (not name.endswith("bias") or name.removesuffix("bias") + "weight" in idle):
            yield f"that of {name} is always 0, with images and without"


def _losses(subject: _Subject) -> Iterator[str]:
    for what, rows in {"six posts": range(6), "one post": [0], "one post of one word": [ONE_WORD]}.items():
        yield from _finite_losses(subject, what, subject.batch(rows))


def _batch_of_one(subject: _Subject) -> Iterator[str]:
    for training in (False, True):
        mode, batch = "training" if training else "evaluation", subject.batch()
        together = subject.still(training).emissions(batch)
        if training and not _same(together, subject.still(training).emissions(batch)):
            return  # it draws random numbers beside dropout: nothing to compare
        for row, post in enumerate(subject.batch.posts):
            one, alone = together[row, : len(post.words)], subject.still(training).emissions(subject.batch([row]))[0]
            if not _same(one, alone):
                yield f"emissions of post {row} change by {_distance(one, alone):.2g} beside other posts ({mode} mode)"
                return


def _padding(field: Literal["words", "word pieces", "regions"]) -> Callable[[_Subject], Iterator[str]]:
    def check(subject: _Subject) -> Iterator[str]:
        batch = subject.stored() if field == "regions" and subject.cls.uses_image else subject.batch()
        yield from _compare(subject, batch, padded(batch, field), f"three more padded {field}", losses=True)

    return check


def _order_of_regions(subject: _Subject) -> Iterator[str]:
    if subject.cls.uses_image and not getattr(subject.cls, "region_order_matters", False):
        other = rearranged(batch := subject.stored(), "regions")
        for line in _compare(subject, batch, other, "the regions in another order"):
            yield f"{line}; if they should, say `region_order_matters = True` in the class"


def _save_and_load(subject: _Subject) -> Iterator[str]:
    module, batch = copy.deepcopy(subject.module), subject.batch()
    with TemporaryDirectory() as folder:
        off: Any = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), 0)
        trainer = pl.Trainer(max_steps=1, accelerator="cpu", devices=1, default_root_dir=folder, **off)
        trainer.fit(module, DataLoader([batch], batch_size=None, collate_fn=lambda one: one))  # type: ignore[arg-type]
        trainer.save_checkpoint(f"{folder}/model.ckpt")
        torch.default_generator.manual_seed(1)  # what was drawn and not saved comes out differently now
        # The base's loader imports the class, which a function's own class cannot be.
        loader = subject.cls if "<locals>" in subject.cls.__qualname__ else FusionModule
        loaded: Any = loader.load_from_checkpoint(f"{folder}/model.ckpt")
    before, after = module.eval().emissions(batch), loaded.emissions(batch)
    if not _same(before, after):
        yield f"emissions of the loaded model differ by {_distance(before, after):.2g}; is a part not in its state?"


def _missing_images(subject: _Subject) -> Iterator[str]:
    yield from _finite_losses(subject, "posts without images", subject.batch(images="missing"))
    yield from _finite_losses(subject, "a batch without fields for images", subject.batch(images="absent"))
    batch = subject.batch()
    inputs = {name: value for name, value in batch.items() if name in ("image", "regions")}
    other = batch | {name: value.index_fill(0, torch.tensor(NO_IMAGE), 100.0) for name, value in inputs.items()}
    yield from _compare(subject, batch, other, "numbers in place of a missing image")


def _autocast(subject: _Subject) -> Iterator[str]:
    batch = subject.batch()
    exact = subject.module.emissions(batch)[batch["word_mask"]]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = subject.module.emissions(batch)[batch["word_mask"]]
    if not _distance(exact, rounded) < 0.1 * max(1.0, float(exact.abs().max())):
        yield f"emissions in bfloat16 differ by {_distance(exact, rounded):.2g}"
    yield from _finite_losses(subject, "six posts in bfloat16", batch, autocast=True)


def _compile(subject: _Subject) -> Iterator[str]:
    if reason := getattr(subject.cls, "refuses_compile", None):
        print(f"{subject.cls.__name__} is not traced by torch.compile: {reason}")
        return
    batch = subject.batch()
    torch.compiler.reset()  # classes share the base's code, of which only eight traces are kept
    traced: Any = torch.compile(subject.module.emissions, backend="eager")
    one, two = (emissions(batch)[batch["word_mask"]] for emissions in (subject.module.emissions, traced))
    if not _same(one, two):
        yield f"traced emissions differ by {_distance(one, two):.2g}"


def _attention_maps(subject: _Subject) -> Iterator[str]:
    if not subject.cls.uses_image:
        return
    batch, parts = subject.batch(), dict(subject.module.named_modules())
    words, regions = batch["word_mask"], subject.module.raw_regions(batch)[1]  # (b, w), (b, r)
    with torch.no_grad(), capture_attention(subject.module) as seen:
        subject.module.emissions(batch)
    for name, weights in seen.maps.items():
        if weights.shape[2] != regions.shape[1]:
            if not isinstance(parts.get(name), nn.MultiheadAttention):  # torch's own may attend to anything
                yield f"{name} has {weights.shape[2]} weights for {regions.shape[1]} regions; see its `attends_to`"
            continue
        queries = words if weights.shape[1] == words.shape[1] else words.new_ones(weights.shape[:2])
        rows = weights[queries & regions.any(1)[:, None]]  # not every post has a region
        is_part = hasattr(parts.get(name), "regions_follow_pieces")  # the rest is on pieces
        sums, least = rows.sum(-1), 0.0 if is_part else 0.999
        if not ((sums > least) & (sums < 1.001)).all() or rows.min() < 0:
            yield f"{name} has weights that sum to {sums.min():.3g} … {sums.max():.3g}; expected 1"
        if weights.masked_fill(regions[:, None], 0.0).any():
            yield f"{name} attends to padded regions"


def _use_of_image(subject: _Subject) -> Iterator[str]:
    batch = subject.batch([row for row in range(6) if row != NO_IMAGE])
    one, other = (subject.module.emissions(each) for each in (batch, rearranged(batch, "posts")))
    far = _distance(one[batch["word_mask"]], other[batch["word_mask"]])
    if subject.cls.uses_image and far < 1e-6:
        yield "another image changes no emission; if none is read on purpose, say `uses_image = False` in the class"
    if not subject.cls.uses_image and far > 0 and "object_names" not in getattr(subject.cls, "needs", ()):
        yield f"another image changes emissions by {far:.2g}, although `uses_image` is False"


CHECKS: dict[str, Callable[[_Subject], Iterator[str]]] = {
    "emissions": _emissions,
    "gradient": _gradient,
    "losses": _losses,
    "batch of one": _batch_of_one,
    "padding of words": _padding("words"),
    "padding of word pieces": _padding("word pieces"),
    "padding of regions": _padding("regions"),
    "order of regions": _order_of_regions,
    "save and load": _save_and_load,
    "missing images": _missing_images,
    "no entities": lambda subject: _finite_losses(subject, "two such posts", subject.batch([NO_ENTITY] * 2)),
    "autocast": _autocast,
    "compile": _compile,
    "attention maps": _attention_maps,
    "use of the image": _use_of_image,
}
"""What is checked, by the name that begins each line."""


def _finite_losses(subject: _Subject, what: str, batch: Fields, autocast: bool = False) -> Iterator[str]:
    module = copy.deepcopy(subject.module).train()
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            parts = module.losses(batch)
        torch.autograd.backward([part.sum() for part in parts.values()])
    except Exception as error:
        yield f"{what}: {_raised(error)}"
        return
    found = {f"`{name}`": part for name, part in parts.items()}
    for name, value in module.named_parameters():
        if value.grad is not None and all(part.isfinite().all() for part in parts.values()):
            found[f"the gradient of {name}"] = value.grad.sum()
    for name, number in found.items():
        if number.shape != () or not number.isfinite():
            yield f"{what}: expected a finite number as {name}, but got {number.tolist()}"


def _compare(subject: _Subject, batch: Fields, other: Fields, what: str, losses: bool = False) -> Iterator[str]:
    """Whether two batches that mean the same give the same emissions, and the same loss unless that is random."""
    module, mask = subject.still(), batch["word_mask"]
    one, two = module.emissions(batch)[mask], module.emissions(other)[:, : mask.shape[1]][mask]
    if not _same(one, two):
        yield f"{what} change emissions by {_distance(one, two):.2g}"
    elif losses and _same(loss := _loss(module, batch), _loss(module, batch)):
        if not _same(loss, again := _loss(module, other)):
            yield f"{what} change the loss by {_distance(loss, again):.2g}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Random numbers of our own, no talk of the dependencies; afterwards all is as it was."""
    python, numpy, silenced = random.getstate(), np.random.get_state(), logging.root.manager.disable
    trace = logging.getLogger("torch.__trace")  # pays no heed to logging.disable, and pytest listens to it
    handlers, trace.handlers = trace.handlers, []
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            for seed in (random.seed, np.random.seed, torch.default_generator.manual_seed):
                seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        logging.disable(silenced)
        trace.handlers = handlers


def _loss(module: Any, batch: Fields) -> Tensor:
    return torch.stack(list(module.losses(batch).values())).sum()


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max()) if one.shape == other.shape else float("inf")


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; what is not a number is never the same."""
    return _distance(one, other) <= 2e-5 * max(1.0, float(one.abs().max()))


def _raised(error: Exception) -> str:
    """An exception in one line, with the place where it was raised."""
    said = (str(error).strip() or "no message").splitlines()[0]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said} ({Path(place.filename).name}:{place.lineno})"
