"""A linear-chain conditional random field with torchcrf's interface and parameters: exact, fast, and hard to break."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torchcrf
from torch import Tensor, nn

from mner.labels import Span
from mner.nn import _crf_arrays as arrays
from mner.nn import _crf_host as host
from mner.nn import _crf_kernel as kernel

Reduction = Literal["none", "sum", "mean", "token_mean"]
_DRIFT = 20.0  # nats by which the spread of the transitions may grow between two looks at it without loss of precision


class CRF(torchcrf.CRF):  # type: ignore[misc]
    """Conditional random field over tag sequences (Lafferty et al. 2001).

    ::

        score(y) = start[y_1] + Σ_t emissions[t, y_t] + Σ_t transitions[y_t-1, y_t] + end[y_w]
        log p(y) = score(y) - log Z,   Z = Σ over all y' of exp score(y')

    **One closed chain.** A boundary label `#` is the only one possible at padding and at one position behind the last
    word; out of `#` a sequence starts, into it a sequence ends. So start, end and rows of any length (0 too) follow one
    recurrence with one edge matrix E = [[transitions, end], [start, 0]], and nothing that stands at padding is read.
    With P = exp E, the factors x_t = exp(nodes at t), and both chains starting from `#`::

        f'_t = Pᵀ f_t-1,   f_t = x_t ∘ f'_t              from the left
        g'_t = P g_t+1,    g_t = x_t ∘ g'_t              from the right, in the same batched product
        Z = f'_t · g_t                                   at any t
        p(y_t = j) = f'_t[j] g_t[j] / Z
        p(y_t-1 = i, y_t = j) = f_t-1[i] P[i, j] g_t[j] / Z

    The gradient of log p(y) is its own counts of labels and transitions minus those expected, so that backward is one
    product of the chains that forward kept. It can be taken once, not twice.

    **Range.** The chains are float64, scaled by the largest node of each position, by the largest edge, and by their
    own largest entry every K steps. Let S be the largest edge minus the smallest. Entries of g'_t differ by e^S at
    most, so what underflows in f has a posterior below e^(S - 558). Nothing is lost, whatever the emissions are, for S
    up to 150, and K = 150 / max(S, log k) keeps the chains representable between two scalings. Beyond that (transitions
    of -inf or -10000) the chains run in log space, which is right for any range and some times slower.

    **On a GPU** the loss waits for nothing: S is read before the first loss and after loading weights, and then comes
    along with each `decode`, which makes one transfer; training moves S by far less than the slack that is kept.

    **Devices without float64** (MPS) are served by the processor, and get its results back.

    **BIO constraints**, if `labels` are given, hold in `decode`, `marginals` and `span_probabilities`: what IOB2
    forbids gets probability 0. They do not hold in the loss, since gold data has stray `I-` tags, whose likelihood
    would be 0. They are no part of the state dict, which is torchcrf's.

    Masks are true (or non-zero) at real words and must be prefixes. Inputs of low precision are widened first, whatever
    autocast says; `decode` compares in float32 unless the emissions are float64. The notation is b batch, w words, l
    labels; shapes below are for `batch_first=True`, without which words come first.

    Args:
        num_tags: Number of labels, l.
        batch_first: Whether tensors are (b, w, ...) instead of (w, b, ...).
        labels: Names of the labels, for constraints and `span_probabilities`.
        constrain: Whether BIO constraints hold; without `labels` they never do.

    >>> crf = CRF(3, batch_first=True, labels=["O", "B-PER", "I-PER"])
    >>> emissions = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]])
    >>> crf.decode(emissions)
    [[1, 2]]
    """

    start_transitions: nn.Parameter  # (l,)
    end_transitions: nn.Parameter  # (l,)
    transitions: nn.Parameter  # (l, l), from row to column
    _forbidden: Tensor | None  # (k, k) bool, with the boundary last

    def __init__(
        self,
        num_tags: int,
        batch_first: bool = False,
        labels: Sequence[str] | None = None,
        constrain: bool = True,
    ) -> None:
        super().__init__(num_tags, batch_first)
        if labels is not None and len(labels) != num_tags:
            raise ValueError(f"Expected argument `labels` to name {num_tags} labels, but got {len(labels)}: {labels}")
        self.labels = None if labels is None else tuple(labels)
        self._spread: float | None = None  # of the edges, as last seen on the host; used on other devices only
        forbidden = None
        if labels is not None and constrain:
            forbidden = torch.from_numpy(arrays.forbidden_edges(labels))  # (k, k)
        # No buffer: what averages weights (Lightning's WeightAveraging) averages buffers too, and bool has no mean.
        self._forbidden = forbidden

    def forward(
        self, emissions: Tensor, tags: Tensor, mask: Tensor | None = None, reduction: Reduction = "sum"
    ) -> Tensor:
        """Log-likelihood of the tags; the loss is its negative. Constraints do not apply here.

        Args:
            emissions: (b, w, l).
            tags: (b, w), whatever at padding.
            mask: (b, w), true = real; None if all words are.
            reduction: `none` (b,), `sum` or `mean` over rows, or `token_mean`, the sum over the number of words.

        Returns:
            (b,) or (), float32, or float64 where the emissions are. A row without words has log-likelihood 0.

        Raises:
            ValueError: If shapes differ, the mask is no prefix, or a real tag is no label. On a GPU the last two fail
                as device-side assertions, since looking would cost a wait.
        """
        if reduction not in get_args(Reduction):
            raise ValueError(f"Expected argument `reduction` to be one of {get_args(Reduction)}, but got {reduction!r}")
        if tags.shape != emissions.shape[:2] or tags.is_floating_point():
            raise ValueError(
                f"Expected argument `tags` to be integers of shape {tuple(emissions.shape[:2])}, the first two "
                f"dimensions of the emissions, but got {tags.dtype} of shape {tuple(tags.shape)}"
            )
        home = emissions.device
        emissions, mask = self._words_first(emissions, mask)  # (w, b, l), (w, b)
        tags = (tags.T if self.batch_first else tags).to(mask.device, torch.long).masked_fill(~mask, 0)  # (w, b)
        self._check_tags(tags)
        likelihood = self._likelihood(emissions, tags, mask).to(home)  # (b,)
        if reduction == "none":
            return likelihood
        if reduction == "mean":
            return likelihood.mean()
        return likelihood.sum() if reduction == "sum" else likelihood.sum() / mask.sum().clamp(min=1).to(home)

    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """The most likely tags of each row, by Viterbi, as long as the row.

        Args:
            emissions: (b, w, l).
            mask: (b, w), true = real; None if all words are.

        Raises:
            ValueError: If shapes differ or the mask is no prefix.
        """
        emissions, mask = self._words_first(emissions.detach(), mask)
        free = self._edges(emissions)  # (k, k)
        edges = self._constrained(free).to(torch.promote_types(emissions.dtype, torch.float32))
        on_cpu = emissions.device.type == "cpu"
        if on_cpu and mask.shape[1] * self.num_tags**2 < arrays.SMALL:
            return arrays.viterbi(emissions.to(edges.dtype).numpy(), mask.numpy(), edges.numpy())
        best, lengths = kernel.best_scores(emissions, edges), mask.sum(0)  # (w, l, b), (b,)
        if on_cpu:
            return arrays.trace(best.numpy(), edges.numpy(), lengths.numpy())
        spread = kernel.edge_spread(free).to(edges.dtype)
        *found, last = kernel.to_host(best, edges, lengths.to(edges.dtype), spread)
        self._spread = float(last)
        return arrays.trace(*found)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Tensor | None = None, constrained: bool = True) -> Tensor:
        """Probability of each label at each word, all tag sequences considered. Not differentiable.

        Args:
            emissions: (b, w, l).
            mask: (b, w), true = real; None if all words are.
            constrained: Whether BIO constraints hold, if the CRF has them. The loss has none: its gradient is False's.

        Returns:
            (b, w, l), 1 in sum at real words and 0 at padding; float32, or float64 where the emissions are.

        >>> crf = CRF(3, batch_first=True, labels=["O", "B-PER", "I-PER"])
        >>> crf.marginals(torch.zeros(1, 4, 3)).sum(-1)
        tensor([[1., 1., 1., 1.]])
        """
        home = emissions.device
        emissions, mask = self._words_first(emissions, mask)
        nodes, edges = kernel.close_nodes(emissions, mask), self._edges(emissions)
        _, incoming, states = kernel.log_chains(nodes, self._constrained(edges) if constrained else edges)
        probabilities = kernel.log_marginals(incoming, states)[0][:-1, :, :-1].exp_()  # (w, b, l)
        probabilities = probabilities.to(home, torch.promote_types(emissions.dtype, torch.float32))
        return probabilities.transpose(0, 1) if self.batch_first else probabilities

    @torch.no_grad()
    def span_probabilities(
        self, emissions: Tensor, mask: Tensor | None, spans: Sequence[Sequence[Span]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Probability of each entity as a whole: `B-` at its start, `I-` inside, and no `I-` of its type behind it.

        Given the emissions, the tags are a Markov chain, so that this is a product along the span from s up to e::

            p(y_s = B) · Π p(y_t = I | y_t-1) · (1 - p(y_e = I | y_e-1))
            p(y_t = j | y_t-1 = i) = P[i, j] g_t[j] / g'_t-1[i]

        Args:
            emissions: (b, w, l).
            mask: (b, w), true = real; None if all words are.
            spans: The entities of each row.
            temperature: What emissions and transitions are divided by (Guo et al. 2017): over 1 for less confident
                probabilities, under 1 for more. It leaves the best path as it is.

        Raises:
            ValueError: If the temperature is not above 0, there are no `labels`, or a span is not within its row or of
                an unknown type.

        >>> crf = CRF(3, batch_first=True, labels=["O", "B-PER", "I-PER"])
        >>> emissions = torch.tensor([[[0.0, 40.0, 0.0], [0.0, 0.0, 40.0], [40.0, 0.0, 0.0]]])
        >>> round(crf.span_probabilities(emissions, None, [[Span(0, 2, "PER")]])[0][0], 4)
        1.0
        """
        if self.labels is None:
            raise ValueError("Expected a CRF that knows its labels, but got none. Construct it with `labels=[...]`.")
        if not temperature > 0:
            raise ValueError(f"Expected argument `temperature` to be above 0, but got {temperature}")
        emissions, mask = self._words_first(emissions, mask)
        batch = mask.shape[1]
        if len(spans) != batch:
            raise ValueError(f"Expected argument `spans` to have one list for each of {batch} rows, got {len(spans)}")
        edges = self._constrained(self._edges(emissions)).cpu().numpy()  # (k, k)
        wide = torch.promote_types(emissions.dtype, torch.float32)
        host = emissions.to("cpu", wide).numpy(), mask.cpu().numpy()
        return arrays.span_probabilities(*host, edges, self.labels, spans, temperature)

    def _likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Of each row (b,): emissions (w, b, l), tags (w, b) with 0 at padding, mask (w, b)."""
        given = emissions, tags, mask, *self._scores(emissions)
        found: Tensor
        if emissions.device.type not in host.DEVICES:
            if self._spread is None:
                self._spread = kernel.edge_spread(self._edges(emissions)).item()
            found = kernel.LogLikelihood.apply(*given, self._spread + _DRIFT)
            return found
        edges = self._edges(emissions)  # (k, k)
        spread = kernel.edge_spread(edges).item()
        if spread <= kernel.WIDEST:
            wide = emissions.to(torch.promote_types(emissions.dtype, torch.float32))
            found = host.Likelihood.apply(edges.numpy(), spread, wide, *given[1:])
        else:  # NaN too
            found = kernel.LogLikelihood.apply(*given, spread)
        return found

    def _scores(self, beside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Start (l,), end (l,) and transitions (l, l), on the device of `beside`."""
        device = beside.device
        return self.start_transitions.to(device), self.end_transitions.to(device), self.transitions.to(device)

    def _edges(self, beside: Tensor) -> Tensor:
        """Unconstrained edges (k, k), on the device of `beside`."""
        scores = [score.detach() for score in self._scores(beside)]
        if beside.device.type in host.DEVICES:
            return torch.from_numpy(arrays.close_edges(*(score.double().numpy() for score in scores)))
        return kernel.close_edges(*scores)

    def _constrained(self, edges: Tensor) -> Tensor:
        if self._forbidden is None:
            return edges
        if self._forbidden.device != edges.device:
            self._forbidden = self._forbidden.to(edges.device)  # once, where the weights went
        return edges.masked_fill(self._forbidden, -math.inf)

    def _words_first(self, emissions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checked emissions (w, b, l) and bool mask (w, b)."""
        if emissions.dim() != 3 or emissions.shape[2] != self.num_tags:
            order = "batch, words" if self.batch_first else "words, batch"
            raise ValueError(
                f"Expected argument `emissions` to have shape ({order}, {self.num_tags}), but got "
                f"{tuple(emissions.shape)}"
            )
        if mask is None:
            mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        if mask.shape != emissions.shape[:2]:
            raise ValueError(
                f"Expected argument `mask` to have shape {tuple(emissions.shape[:2])}, the first two dimensions of the "
                f"emissions, but got {tuple(mask.shape)}"
            )
        mask = mask.bool()
        if emissions.device.type in kernel.NO_FLOAT64:
            emissions, mask = emissions.cpu(), mask.cpu()
        if self.batch_first:
            emissions, mask = emissions.transpose(0, 1), mask.T
        self._check_prefix(mask)
        return emissions, mask

    def _check_prefix(self, mask: Tensor) -> None:
        """A mask (w, b) must be true up to each row's length."""
        message = "Expected argument `mask` to be a prefix: true up to each row's length, false from there on"
        if mask.device.type != "cpu":
            torch._assert_async((mask[1:] <= mask[:-1]).all(), message)
            return
        array = mask.numpy()
        holes = array[1:] > array[:-1]  # (w - 1, b)
        if holes.any():
            word, row = np.argwhere(holes)[0].tolist()
            raise ValueError(f"{message}; but got row {row} true at {word + 1} after false at {word}")

    def _check_tags(self, tags: Tensor) -> None:
        """Tags (w, b), 0 at padding, must be labels."""
        message = f"Expected real tags to be within 0..{self.num_tags - 1}"
        if tags.device.type != "cpu":
            torch._assert_async(((tags >= 0) & (tags < self.num_tags)).all(), message)
        elif (wrong := tags.numpy().view(np.uint64) >= self.num_tags).any():  # below 0 is very large there
            word, row = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"{message}, but got {tags[word, row].item()} at row {row}, word {word}; mask padding")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._spread = None
