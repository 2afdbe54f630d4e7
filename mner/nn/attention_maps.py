"""Where a model looks: attention over image regions, captured from any strategy as it is (Figure 1 of the paper)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mner.nn.masking import first_pieces


@dataclass
class AttentionMaps:
    """What `capture_attention` saw in the last forward pass.

    Attributes:
        maps: For each module that attends to regions, by its name in the model, the weights (b, queries, regions).
            Queries are words, or 1 where all words share a map (VAM). A row sums to 1 over the real regions, except in
            TAM, where the rest of the attention is on word pieces.
    """

    maps: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def capture_attention(model: nn.Module, last_layers: int = 1) -> Iterator[AttentionMaps]:
    """Record attention over regions during forward passes inside this context.

    Works through forward hooks alone, on

    - modules that follow the convention of `mner.nn.attention.Attention` and attend to regions (VAM, CAM, UMT);
    - modules with `regions_follow_pieces` (`SingleStream` and `LateStream` of TAM): attention from each word's first
      piece to the regions, mean over the heads of the last layers. The encoder uses its eager kernel meanwhile, since
      the others keep no weights;
    - `torch.nn.MultiheadAttention` called with keys other than its queries, as a strategy of yours may do.

    Put the model in evaluation mode first: dropout also drops attention.

    Args:
        model: Any strategy, or any module with such attention inside.
        last_layers: How many of the last layers of a single stream are averaged.

    Yields:
        The maps; empty where nothing attends to regions (TextOnly, Concatenation).

    Raises:
        ValueError: If `last_layers` is below 1.

    For example::

        with torch.no_grad(), capture_attention(model) as seen:
            model(batch)
        heat = region_map(seen.maps["fusion.attention"][0, 0], grid=(7, 7), size=(480, 640))
    """
    if last_layers < 1:
        raise ValueError(f"Expected `last_layers` of at least 1, but got {last_layers}")
    seen = AttentionMaps()
    with ExitStack() as undo:
        for name, module in model.named_modules():
            name = name or type(module).__name__
            if getattr(module, "returns_attention", False):
                if getattr(module, "attends_to", "regions") == "regions":
                    _watch_attention(name, module, seen, undo)
            elif getattr(module, "regions_follow_pieces", False):
                _watch_stream(name, module, seen, undo, last_layers)
            elif isinstance(module, nn.MultiheadAttention):
                _watch_multihead(name, module, seen, undo)
        yield seen


def region_map(weights: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Weights over a grid of regions as a heat map of the image's size, by bicubic interpolation.

    Args:
        weights: (r,), in row-major order.
        grid: Rows and columns of the grid, such as (7, 7); their product is r.
        size: Height and width of the image in pixels.

    Returns:
        (height, width), at least 0.

    Raises:
        ValueError: If the weights do not fill the grid.

    >>> region_map(torch.eye(2).flatten(), grid=(2, 2), size=(4, 6)).shape
    (4, 6)
    """
    if weights.shape != (grid[0] * grid[1],):
        raise ValueError(
            f"Expected one weight for each of the {grid[0]} x {grid[1]} = {grid[0] * grid[1]} cells, but got shape "
            f"{tuple(weights.shape)}; choose one post and one query of the captured map"
        )
    cells = weights.detach().float().cpu().view(1, 1, *grid)
    # Bicubic curves overshoot: below 0 there is no attention.
    pixels = nn.functional.interpolate(cells, size=size, mode="bicubic", align_corners=False).clamp(min=0)
    heat: NDArray[np.float32] = pixels[0, 0].numpy()
    return heat


def _watch_attention(name: str, module: nn.Module, seen: AttentionMaps, undo: ExitStack) -> None:
    def after(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        seen.maps[name] = output[1].detach().float()

    undo.callback(module.register_forward_hook(after).remove)


def _watch_multihead(name: str, module: nn.MultiheadAttention, seen: AttentionMaps, undo: ExitStack) -> None:
    def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        return (), {**arguments, "need_weights": True, "average_attn_weights": True}

    def after(_: nn.Module, __: Any, kwargs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
        if kwargs["query"] is not kwargs["key"]:
            seen.maps[name] = output[1].detach().float()

    undo.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    undo.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _watch_stream(name: str, stream: nn.Module, seen: AttentionMaps, undo: ExitStack, last_layers: int) -> None:
    layers: list[Tensor] = []  # of the pass under way: (b, heads, n, n) each, n = t or t + r
    prepared: list[Any] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        layers[:] = output.attentions

    def add(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        layers.append(output[1])  # of a layer that is run by itself

    def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        layers.clear()
        encoder = _arguments(stream, args, kwargs)["model"]
        if encoder not in prepared:
            prepared.append(encoder)
            _keep_weights(encoder, undo)
            undo.callback(encoder.register_forward_hook(keep).remove)
            kind = (getattr(encoder, "_can_record_outputs", None) or {}).get("attentions", ())
            for part in encoder.modules():
                if isinstance(part, kind):
                    undo.callback(part.register_forward_hook(add).remove)

    def after(_: nn.Module, args: Any, kwargs: dict[str, Any], __: Tensor) -> None:
        arguments = _arguments(stream, args, kwargs)
        t = arguments["token_ids"].shape[1]
        both = [layer for layer in layers if layer.shape[-1] > t]  # the layers that read regions too
        weights = torch.stack(both[-last_layers:]).float().mean((0, 2)).detach()  # (b, t + r, t + r)
        seen.maps[name] = first_pieces(weights, arguments["word_starts"])[:, :, t:]  # (b, w, r)

    undo.callback(stream.register_forward_pre_hook(before, with_kwargs=True).remove)
    undo.callback(stream.register_forward_hook(after, with_kwargs=True).remove)


def _keep_weights(encoder: Any, undo: ExitStack) -> None:
    """Make a transformers encoder return its attention, until `undo`."""
    kernel, returned = encoder.config._attn_implementation, encoder.config.output_attentions
    if kernel != "eager":
        encoder.set_attn_implementation("eager")
        undo.callback(encoder.set_attn_implementation, kernel)
    encoder.config.output_attentions = True
    undo.callback(setattr, encoder.config, "output_attentions", returned)


def _arguments(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    return inspect.signature(module.forward).bind(*args, **kwargs).arguments
