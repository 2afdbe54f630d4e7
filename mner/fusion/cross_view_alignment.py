"""A post alone learns from the post with texts about its image: ITA of Wang et al. (2022)."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from mner.batch import Batch
from mner.data.datamodules.joint import parts_of
from mner.errors import DataNotFoundError
from mner.fusion.text_only import TextOnly
from mner.nn.objectives import DivergenceKind, divergence, without_context, without_padding

View = Literal["context", "post"]


class CrossViewAlignment(TextOnly):
    """ITA: one text encoder reads each post with its context and without, and the second view learns from the first.

    ::

        e_C = Linear(dropout(encoder(post, context)));    e_P = Linear(dropout(encoder(post)))        (w, l) each
        loss = NLL_CRF(e_C, tags) + NLL_CRF(e_P, tags) + λ KL(p_C || p_P)

        positions   p_t = marginals of the CRF at word t, q_t = softmax(log p_t / τ);   KL = τ² Σ_t KL(q_C,t || q_P,t)
        sequence    p = the CRF's distribution over whole tag sequences;                KL exactly

    The context is whatever the data module has as `context`: captions, names and attributes of objects, text in the
    image. The view with context is a constant in the divergence, and posts without context have none. Both views are
    passes of the same weights; the second is as long as the posts are.

    Tags come from the view with context, or with `view="post"` from the post alone, which then needs no image and no
    captioner. It can be changed at any time: `model.view = "post"`. A post that comes without context is a post alone.

    Paper: Wang et al., "ITA: Image-text alignments for multi-modal named entity recognition", NAACL 2022. τ is 4 for
    Twitter-2015 and Snapchat, 2 for Twitter-2017.

    Chosen here, where the released code differs: the weights of the three parts are 1, 1 and λ (there ½, 1 and ½); each
    batch shows both views of its posts (there two corpora, shuffled together); the divergence is reduced as
    `crf_reduction` says.

    Args:
        args: As for `FusionModule`.
        kind: `positions`, as published, or `sequence`.
        temperature: τ.
        weight: λ.
        view: What is decoded, `context` or `post`; training is not changed by it.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If `kind` or `view` is unknown, τ not above 0, or λ negative.

    >>> from mner.data.sample.batches import SampleBatches
    >>> batches = SampleBatches()
    >>> sorted(CrossViewAlignment(batches.labels).losses(batches()))
    ['agreement', 'plain', 'tagging']
    """

    def __init__(
        self,
        *args: Any,
        kind: DivergenceKind = "positions",
        temperature: float = 4.0,
        weight: float = 1.0,
        view: View = "context",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value, known in (("kind", kind, get_args(DivergenceKind)), ("view", view, get_args(View))):
            if value not in known:
                raise ValueError(f"Expected `{name}` to be one of {known}, but got {value!r}")
        if not temperature > 0 or weight < 0:
            raise ValueError(
                f"Expected `temperature` above 0 and `weight` of at least 0, but got {temperature} and {weight}"
            )
        self.view = view

    def setup(self, stage: str) -> None:
        """Refuse to be trained on posts without any context, in which there is nothing to align."""
        super().setup(stage)
        for part in parts_of(getattr(self.trainer, "datamodule", None), self).values():
            if stage == "fit" and not part.context_names:
                raise DataNotFoundError(
                    f"{type(self).__name__} learns from texts about the image, but {type(part).__name__} has no "
                    "`context`: give it files of texts (`mner caption` writes one), or choose TextOnly"
                )

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l) of the view that is decoded; in training those with context."""
        alone = self.view == "post" and not self.training
        return super().emissions(without_context(batch) if alone else batch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging` with context, `plain` without, and `agreement`, how far they are apart, times λ."""
        full, plain = super().emissions(batch), super().emissions(without_padding(without_context(batch)))
        has_context = ((batch["segment_ids"] == 1) & batch["token_mask"]).any(1, keepdim=True)  # (b, 1)
        agreement = divergence(
            self.crf,
            full,
            plain,
            batch["word_mask"] & has_context,
            self.hparams["kind"],
            self.hparams["temperature"],
            "token_mean" if self.hparams["crf_reduction"] == "token_mean" else "mean",
        )
        return {
            "tagging": self.nll(full, batch),
            "plain": self.nll(plain, batch),
            "agreement": self.hparams["weight"] * agreement,
        }
