"""Losses and views beside the tagging loss, as pure functions: what auxiliary tasks of published systems are made of.

Notation: b posts, w words, l labels, n pairs, d width. Each strategy adds them up in its `losses`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional

from mner.nn.crf import CRF, Reduction
from mner.nn.posteriors import log_marginals

if TYPE_CHECKING:
    from mner.batch import Batch

DivergenceKind = Literal["sequence", "positions"]


def divergence(
    crf: CRF,
    teacher: Tensor,
    student: Tensor,
    mask: Tensor,
    kind: DivergenceKind = "sequence",
    temperature: float = 1.0,
    reduction: Reduction = "token_mean",
) -> Tensor:
    """Kullback-Leibler divergence KL(teacher || student) between two views of posts under one CRF.

    `sequence` compares the distributions over whole tag sequences, exactly. With e emissions, μ the teacher's
    marginals, and emissions and transitions over the temperature τ::

        KL = Σ_t Σ_y μ_t(y) (e_T - e_S)_t(y) / τ - log Z(e_T) + log Z(e_S),     dKL / de_S = (μ_S - μ_T) / τ

    `positions` is the form of ITA (Wang et al. 2022, NAACL, "Image-Text Alignments"), which compares words one by one.
    Its τ flattens the marginals p_t of the CRF as it is, and its gradient goes through forward-backward::

        q_t = softmax(log p_t / τ),     KL = τ² Σ_t Σ_y q_T,t(y) (log q_T,t(y) - log q_S,t(y))

    The teacher is a constant: no gradient reaches its emissions. In `sequence` the transitions keep theirs in both
    log Z, without which equal views would pull at them. Marginals are unconstrained, like the loss.

    Args:
        crf: The CRF of both views, with `batch_first`.
        teacher: Emissions (b, w, l) of the view to learn from.
        student: Emissions (b, w, l) of the view that learns.
        mask: (b, w) bool, true = real.
        kind: `sequence` or `positions`.
        temperature: τ; ITA has 4 for Twitter-2015 and Snapchat, 2 for Twitter-2017.
        reduction: As for `CRF.forward`: `token_mean` over words, `mean` over posts as published, `sum`, or `none`.

    Returns:
        () or (b,), at least 0 up to rounding, and 0 for equal views; float32, or float64 where the student is.

    Raises:
        ValueError: If shapes differ, an option is unknown, or the temperature is not above 0.

    >>> crf, mask = CRF(3, batch_first=True), torch.ones(1, 4, dtype=torch.bool)
    >>> view, other = torch.zeros(1, 4, 3), torch.ones(1, 4, 3).cumsum(-1)
    >>> divergence(crf, view, view, mask).item(), divergence(crf, view, other, mask).item() > 0.1
    (0.0, True)
    """
    for name, value, known in (("kind", kind, DivergenceKind), ("reduction", reduction, Reduction)):
        if value not in get_args(known):
            raise ValueError(f"Expected argument `{name}` to be one of {get_args(known)}, but got {value!r}")
    if not temperature > 0:
        raise ValueError(f"Expected argument `temperature` to be above 0, but got {temperature}")
    if teacher.shape != student.shape or student.shape[:2] != mask.shape or not crf.batch_first:
        raise ValueError(
            "Expected emissions (b, w, l) of two views of the same posts, their mask (b, w) and a CRF with "
            f"batch_first=True, but got shapes {tuple(teacher.shape)}, {tuple(student.shape)} and {tuple(mask.shape)}, "
            f"batch_first={crf.batch_first}"
        )
    mask, dtype = mask.bool(), torch.promote_types(student.dtype, torch.float32)
    # float64 inside: a small difference of two large log Z.
    compare = _sequences if kind == "sequence" else _positions
    by_post = compare(crf, teacher.detach().double(), student.double(), mask, temperature).to(dtype)  # (b,)
    if reduction == "none":
        return by_post
    if reduction == "mean":
        return by_post.mean()
    return by_post.sum() if reduction == "sum" else by_post.sum() / mask.sum().clamp(min=1)


def _sequences(crf: CRF, teacher: Tensor, student: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Divergence (b,) of tag sequences. log Z is the score of the sequence that is 0 throughout minus its log p."""
    crf, teacher, student = _tempered(crf, temperature), teacher / temperature, student / temperature
    zeros = torch.zeros_like(mask, dtype=torch.long)
    expected = crf.marginals(teacher, mask, constrained=False)  # (b, w, l), 0 at padding
    expected[..., 0] -= mask.double()  # transitions cancel in the difference of both scores
    difference = (teacher - student).masked_fill(~mask[..., None], 0.0)
    log_z: Tensor = crf(teacher, zeros, mask, "none") - crf(student, zeros, mask, "none")  # (b,)
    return log_z + (expected * difference).sum((1, 2))


def _tempered(crf: CRF, temperature: float) -> CRF:
    """The CRF with its parameters over the temperature, through which theirs get a gradient."""
    if temperature == 1.0:
        return crf
    found = copy.copy(crf)
    found._parameters = {}  # the copy's own; results of a division are no parameters but plain attributes
    found._spread = None if crf._spread is None else crf._spread / temperature  # known: nothing to wait for
    for name, parameter in crf.named_parameters():
        setattr(found, name, parameter / temperature)
    return found


def _positions(crf: CRF, teacher: Tensor, student: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Divergence (b,) of the labels of each word, times the temperature squared."""
    with torch.no_grad():
        of_teacher = (log_marginals(crf, teacher, mask) / temperature).log_softmax(-1)
    of_student = (log_marginals(crf, student, mask) / temperature).log_softmax(-1)
    by_word = (of_teacher.exp() * (of_teacher - of_student)).sum(-1)  # (b, w)
    return temperature**2 * by_word.masked_fill(~mask, 0.0).sum(1)


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.07) -> Tensor:
    """Symmetric InfoNCE: row i of each side is to find row i of the other among all rows (van den Oord et al. 2018).

    ::

        s_ij = cos(a_i, b_j) / τ,     loss = ½ mean_i( -log softmax(s_i·)_i ) + ½ mean_j( -log softmax(s_·j)_j )

    MAF (Xu et al. 2022) aligns posts and images so. One pair alone, or none, has nothing to be
    told from: the loss is exactly 0.

    Args:
        a: (n, d), for example the mean of each post's words.
        b: (n, d), for example the mean of its regions.
        temperature: τ; .07 is where CLIP starts.

    Returns:
        (), float32 or wider.

    Raises:
        ValueError: If the sides are not of one shape (n, d), or the temperature is not above 0.

    >>> info_nce(torch.eye(3), torch.eye(3)) < info_nce(torch.eye(3), torch.eye(3).roll(1, 0))
    tensor(True)
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(f"Expected two sides of shape (n, d), but got {tuple(a.shape)} and {tuple(b.shape)}")
    if not temperature > 0:
        raise ValueError(f"Expected argument `temperature` to be above 0, but got {temperature}")
    left, right = (functional.normalize(side.to(torch.promote_types(side.dtype, torch.float32))) for side in (a, b))
    scores = (left @ right.T).div(temperature)  # (n, n)
    own = torch.arange(len(scores), device=scores.device)
    rows, columns = (functional.cross_entropy(side, own, reduction="sum") for side in (scores, scores.T))
    return (rows + columns) / (2 * max(1, len(scores)))  # no pair is left where no post of a batch has an image


def soft_label_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of soft labels, over those that are known.

    ::

        loss = mean over known i of -(y_i log p_i + (1 - y_i) log(1 - p_i)),     p_i = sigmoid(s_i)

    RIVA and RpBERT learn so whether an image adds to its post (Sun et al. 2020, 2021), where somebody has said it.

    Args:
        scores: s, before the sigmoid, any shape.
        targets: y of the same shape, 0 to 1; NaN where unknown.

    Returns:
        (), float32 or wider; 0 if none is known.

    Raises:
        ValueError: If the shapes differ.

    >>> soft_label_loss(torch.zeros(3), torch.tensor([1.0, 0.5, float("nan")]))
    tensor(0.6931)
    """
    if scores.shape != targets.shape:
        raise ValueError(f"Expected a target for each score, but got {tuple(targets.shape)} for {tuple(scores.shape)}")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    known = ~targets.isnan()
    with torch.autocast(scores.device.type, enabled=False):
        each = functional.binary_cross_entropy_with_logits(
            scores.to(dtype), targets.to(dtype).masked_fill(~known, 0.0), reduction="none"
        )
    return each.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """The same numbers, but what comes back is the gradient times `-scale` (Ganin and Lempitsky 2015).

    A classifier behind it learns to tell the modalities apart, and what is before it learns to make them alike.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    same: Tensor = _Reversal.apply(x, scale)
    return same


def straight_through(p: Tensor, threshold: float = 0.5) -> Tensor:
    """A hard gate that learns: 1 where `p` is above the threshold, else 0; its gradient is that of `p` itself.

    Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons".

    >>> p = torch.tensor([0.2, 0.7], requires_grad=True)
    >>> straight_through(p)
    tensor([0., 1.], grad_fn=<AddBackward0>)
    """
    return (p > threshold).to(p.dtype) + (p - p.detach())


def without_context(batch: Batch) -> Batch:
    """The batch as if no post had texts beside it: pieces of the second segment are masked.

    Emissions equal those of a batch that was built without context, to rounding. Tensors that do not change are shared.
    """
    of_context = batch["segment_ids"] == 1
    return cast(
        "Batch",
        {
            **batch,
            "token_mask": batch["token_mask"] & ~of_context,
            "segment_ids": torch.zeros_like(batch["segment_ids"]),
        },
    )


def only_context(batch: Batch, source: int) -> Batch:
    """The batch as if the texts of one source were all that posts have beside them.

    Pieces go to the places that they would then have, so that emissions equal those of a batch that was built so, to
    rounding, unless texts were cut to fit beside each other.

    Args:
        batch: With `context_ids`; without, its texts are of the first source.
        source: 1 for the first.
    """
    mask, of_context = batch["token_mask"], batch["segment_ids"] == 1
    sources = batch.get("context_ids")
    own = mask & ((of_context.long() if sources is None else sources) == source)
    # Special tokens between post and texts are nobody's.
    between = of_context & own.any(1, keepdim=True) & (False if sources is None else sources == 0)
    kept = mask & (own | between | ~of_context)
    order = (~kept).long().argsort(dim=1, stable=True)
    view = {
        "token_ids": batch["token_ids"],
        "token_mask": kept,
        "segment_ids": batch["segment_ids"] * kept,
        "context_ids": own.long(),
    }
    return cast("Batch", {**batch, **{name: value.gather(1, order) for name, value in view.items()}})


def without_padding(batch: Batch) -> Batch:
    """The batch without places at its end where no post has a piece: a view that lost its context costs less so.

    It asks how long the longest post is, for which a GPU waits; in training that is worth it, in a graph it has no
    place.
    """
    longest = max(1, int(batch["token_mask"].any(0).sum()))
    names = ("token_ids", "token_mask", "segment_ids", "context_ids")
    view: dict[str, Any] = {**batch}
    return cast("Batch", {**view, **{name: view[name][:, :longest] for name in names if name in view}})


def without_image(batch: Batch) -> Batch:
    """The batch as if no post had an image, whether it brings images or stored regions. Other tensors are shared."""
    view: dict[str, Any] = dict(batch)
    for name in ("image", "has_image", "regions", "region_mask", "region_boxes", "region_scores"):
        if name in view:
            view[name] = torch.zeros_like(view[name])
    if "object_names" in view:
        view["object_names"] = [[] for _ in view["object_names"]]
    return cast("Batch", view)
