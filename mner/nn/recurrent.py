"""Recurrent layers in full precision, and a bidirectional one that never reads padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class LSTM(nn.LSTM):
    """PyTorch's LSTM of one layer and direction, which computes in the precision of its weights also under autocast.

    Under bf16 autocast PyTorch hands a bf16 LSTM to the CPU, which is an error on one without bf16 instructions; and
    rounding adds up over the steps. Names of the weights are those of `torch.nn.LSTM`.

    Args:
        width: Width of the input.
        hidden: Width of the states.

    >>> layer = LSTM(3, 4)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     states = layer(torch.ones(2, 5, 3, dtype=torch.bfloat16))
    >>> states.shape, states.dtype
    (torch.Size([2, 5, 4]), torch.float32)
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True)

    def forward(self, states: Tensor) -> Tensor:  # type: ignore[override]  # a sequence in, its states out
        """Read sequences (b, t, width) from the left: the state after each step (b, t, hidden)."""
        weights: list[Tensor] = [self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0]  # type: ignore[list-item]
        states, device = states.to(weights[0].dtype), states.device.type
        if _is_exporting():
            exported: Tensor = _exported_lstm(states, *weights)
            return exported
        with torch.autocast(device, enabled=False):
            read, _ = super().forward(states)
        return read


def _is_exporting() -> bool:
    asked: Callable[[], bool] | None = getattr(torch.compiler, "is_exporting", None)  # not in older versions
    return asked is not None and asked()


@torch.library.custom_op("mner::lstm", mutates_args=())
def _exported_lstm(states: Tensor, w: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """An LSTM as one step of a graph, for inference. PyTorch would unroll it: a graph for one length alone."""
    start = states.new_zeros(1, len(states), r.shape[1])
    return torch.lstm(states, (start, start), [w, r, b, c], True, 1, 0.0, False, False, True)[0]


@_exported_lstm.register_fake
def _(states: Tensor, w: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return states.new_empty(*states.shape[:2], r.shape[1])


def onnx_lstm(states: Any, w: Any, r: Any, b: Any, c: Any) -> Any:
    """`mner::lstm` for ONNX, whose own operator wants gates in another order and time before the batch."""
    from onnxscript import opset18

    op: Any = opset18  # its types know no lists, which it takes

    def gates(weights: Any) -> Any:
        kept, forgotten, cell, shown = op.Split(weights, num_outputs=4, axis=0)
        return op.Unsqueeze(op.Concat(kept, shown, forgotten, cell, axis=0), [0])

    bias = op.Concat(gates(b), gates(c), axis=1)
    steps = op.Transpose(states, perm=[1, 0, 2])
    read, _, _ = op.LSTM(steps, gates(w), gates(r), bias, hidden_size=r.shape[1])  # (t, 1, b, hidden)
    return op.Transpose(op.Squeeze(read, [1]), perm=[1, 0, 2])


ONNX: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.mner.lstm.default: onnx_lstm}
"""What `torch.onnx.export` is to be told, as its `custom_translation_table`."""


class BiLSTM(nn.Module):
    """LSTMs in both directions, of which the backward one begins at each sequence's last real step.

    It reverses the real steps of each sequence and reverses the result back. That is what packed sequences do, but
    `torch.export` and ONNX can follow it.

    Args:
        width: Width of the input.
        hidden: Width of each direction; the output is twice as wide.
        layers: How many, one on top of the other.

    >>> layer = BiLSTM(3, 4, layers=2)
    >>> states, mask = torch.randn(1, 5, 3), torch.tensor([[True, True, True, False, False]])
    >>> torch.allclose(layer(states, mask)[:, :3], layer(states[:, :3], mask[:, :3]), atol=1e-6)
    True
    """

    def __init__(self, width: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (layers - 1)
        self.forward_layers = nn.ModuleList(LSTM(n, hidden) for n in widths)
        self.backward_layers = nn.ModuleList(LSTM(n, hidden) for n in widths)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Read sequences.

        Args:
            states: (b, t, width).
            mask: (b, t) bool, true = real; real steps come first.

        Returns:
            (b, t, 2 · hidden), zeros where padded.
        """
        order = _reversal(mask)
        for forth, back in zip(self.forward_layers, self.backward_layers, strict=True):
            ahead = forth(states)  # (b, t, hidden); a state never sees what comes after it
            behind = back(_reordered(states, order))
            states = torch.cat([ahead, _reordered(behind, order)], -1)
        return states.masked_fill(~mask[..., None], 0.0)

    def last(self, states: Tensor, mask: Tensor) -> Tensor:
        """The last state of each direction (b, 2 · hidden), as `forward`'s arguments; zeros for an empty sequence."""
        ahead, behind = self(states, mask).chunk(2, -1)
        end = (mask.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, ahead.shape[-1])  # (b, 1, hidden)
        return torch.cat([ahead.gather(1, end)[:, 0], behind[:, 0]], -1)


def _reversal(mask: Tensor) -> Tensor:
    """(b, t) places that turn the real steps round and leave padding where it is."""
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, mask.sum(1, keepdim=True) - 1 - places, places)


def _reordered(states: Tensor, order: Tensor) -> Tensor:
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
