"""Recurrent layers in full precision, and a bidirectional one that never reads padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class LSTM(nn.LSTM):
    """PyTorch's LSTM, which computes in the precision of its weights also under autocast.

    Under bf16 autocast PyTorch hands a bf16 LSTM to the CPU, which is an error on one without bf16 instructions; and
    rounding adds up over the steps. Names of the weights are those of `torch.nn.LSTM`.

    >>> layer = LSTM(3, 4, batch_first=True)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     layer(torch.ones(2, 5, 3, dtype=torch.bfloat16))[0].dtype
    torch.float32
    """

    def forward(self, states: Tensor, start: State | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """As `torch.nn.LSTM`."""
        weight: Tensor = self.weight_ih_l0  # type: ignore[assignment]  # one of many names that torch makes
        dtype, device = weight.dtype, states.device.type
        start = None if start is None else (start[0].to(dtype), start[1].to(dtype))
        if not torch.is_autocast_enabled(device):  # torch.export stumbles over a change of autocast
            result: tuple[Tensor, State] = super().forward(states.to(dtype), start)
            return result
        with torch.autocast(device, enabled=False):
            result = super().forward(states.to(dtype), start)
            return result


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
        self.forward_layers = nn.ModuleList(LSTM(n, hidden, batch_first=True) for n in widths)
        self.backward_layers = nn.ModuleList(LSTM(n, hidden, batch_first=True) for n in widths)

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
            ahead, _ = forth(states)  # (b, t, hidden); a state never sees what comes after it
            behind, _ = back(_reordered(states, order))
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
