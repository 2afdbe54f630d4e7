"""How much an image adds to its post decides how much of it is read: RpBERT of Sun et al. (2021)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.fusion.transformer_attention import Gather, SingleStream
from mner.nn.masking import first_pieces
from mner.nn.objectives import soft_label_loss, straight_through

Propagation = Literal["soft", "hard", "none"]


class RelationStream(SingleStream):
    """A single stream read twice: the first time to tell whether the image adds to the post, then for the tags.

    ::

        first = SingleStream(text, V);    s = w · first at [CLS] + b;    r = sigmoid(s)       (1)    relation

        soft    words = SingleStream(text, r V')                        V' = W V + b          (w, d)
        hard    words = 1[r > ½] SingleStream(text, V) + 1[r ≤ ½] SingleStream(text, nothing) (w, d)
        none    words = SingleStream(text, V)

    A post without any real region has r = 0, whatever s is. Both passes have the same weights. With r = 1 `soft` is
    `none`. With r = 0 `soft` is not the text alone: slots of zeros are attended to, since they still have their type
    and position.

    Paper: Sun et al., "RpBERT: A text-image relation propagation-based BERT model for multimodal NER", AAAI 2021. Its
    softmax over two numbers is our sigmoid of their difference.

    Chosen here: `hard` masks the slots where r ≤ ½, and lets the gradient through by the straight-through estimator on
    `text + h (seen - text)`, whose forward is one of the two and in which a closed gate still learns what opening it
    would change. Masking alone would leave a closed gate closed for ever. It costs no third pass, since the first pass
    is what is seen.

    Args:
        model: The encoder that will be called.
        region_width: Width f of a region.
        propagation: `soft`, `hard` or `none`.

    Raises:
        ValueError: If the encoder cannot read regions, or `propagation` is unknown.

    >>> from transformers import BertConfig, BertModel
    >>> sizes = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    >>> encoder = BertModel(BertConfig(**sizes, num_hidden_layers=1))
    >>> stream = RelationStream(encoder, region_width=16)
    >>> token_ids, starts = torch.arange(12).view(2, 6), torch.arange(1, 5).expand(2, 4)
    >>> regions, mask = torch.randn(2, 3, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> text = (token_ids, mask[:, :6], torch.zeros_like(token_ids))
    >>> words, relation = stream.propagate(encoder, *text, starts, regions, mask[:, 6:])
    >>> words.shape, relation.shape
    (torch.Size([2, 4, 8]), torch.Size([2]))
    """

    def __init__(self, model: Any, region_width: int, propagation: Propagation = "soft") -> None:
        super().__init__(model, region_width)
        if propagation not in get_args(Propagation):
            raise ValueError(f"Expected `propagation` to be one of {get_args(Propagation)}, but got {propagation!r}")
        self.propagation = propagation
        self.relation = None if propagation == "none" else nn.Linear(model.config.hidden_size, 1)

    def propagate(
        self,
        model: Any,
        token_ids: Tensor,
        token_mask: Tensor,
        segment_ids: Tensor,
        word_starts: Tensor,
        regions: Tensor,
        region_mask: Tensor,
        gather: Gather | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Read twice.

        Args:
            model: The encoder.
            token_ids: (b, t), beginning with [CLS].
            token_mask: (b, t) bool, true = real.
            segment_ids: (b, t), 0 for the post and 1 for its context.
            word_starts: (b, w), where each word's first piece is.
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real; may be false throughout.
            gather: Words (b, w, d) of states (b, t + r, d); None for first pieces.

        Returns:
            Words (b, w, d), and s (b,), the relation before its sigmoid; None without propagation.
        """
        words = gather or partial(first_pieces, word_starts=word_starts)
        text = (model, token_ids, token_mask, segment_ids, word_starts, regions)
        if self.relation is None:
            return self(*text, region_mask, gather=words), None

        def with_cls(states: Tensor) -> Tensor:
            return torch.cat([words(states), states[:, :1]], 1)

        if self.propagation == "hard":
            nothing = self(*text, torch.zeros_like(region_mask), gather=words)
        seen = self(*text, region_mask, gather=with_cls)  # (b, w + 1, d)
        score = self.relation(seen[:, -1]).squeeze(-1)  # (b,)
        gate = (score.sigmoid() * region_mask.any(1))[:, None, None]  # (b, 1, 1)
        if self.propagation == "hard":
            return nothing + straight_through(gate) * (seen[:, :-1] - nothing), score
        return self(*text, region_mask, gate, words), score


class RelationPropagation(FusionModule):
    """RpBERT: regions are read by the text encoder, as much of them as the relation of text and image allows.

    ::

        words, s = RelationStream(post, V);     emissions = Linear(dropout(words))
        loss = NLL_CRF(emissions, tags) + λ BCE(sigmoid(s), relation)

    `relation` (0 to 1, NaN where unknown) says whether the image adds to the post. With λ = 0 nobody needs it, and the
    tags alone teach the gate. So do they, too, where it is known: r is not detached.

    Paper: Sun et al. (2021); `RelationStream` has the formula of the gate. The authors' relation labels are those of
    Vempala and Preoţiuc-Pietro (2019), on other tweets, one pass over them before each epoch; here they are a field of
    the batch.

    Chosen here, where the released code differs: all slots have one position (there they follow the padded text, so
    that it depends on the batch); a post without image has no slot (there, a mask of ones over a black picture); a
    word is its first piece (there the mean of its pieces, beside other embeddings, before a BiLSTM).

    Args:
        args: As for `FusionModule`.
        propagation: `soft` (regions times r), `hard` (all or nothing) or `none` (TAM).
        relation_weight: λ; above 0 the data have to bring `relation`. Released: 0.05.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If `propagation` is unknown, or the weight negative.
    """

    replaces_missing_images = False

    def __init__(
        self, *args: Any, propagation: Propagation = "soft", relation_weight: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if relation_weight < 0:
            raise ValueError(f"Expected `relation_weight` of at least 0, but got {relation_weight}")
        if relation_weight > 0 and propagation != "none":
            self.needs = frozenset({"relation"})  # type: ignore[misc]  # only a model that learns from it needs it
        self.region_projection = nn.Identity()  # the stream has its own
        self.stream = RelationStream(self.text_encoder.model, self.region_width, propagation)

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        return self._read(batch)[0]

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): they are in the words already, and the image encoder must not run twice."""
        mask = batch["word_mask"][:, :0]
        return self.head.weight.new_zeros(*mask.shape, self.width), mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words

    def relation(self, batch: Batch) -> Tensor:
        """How much the image adds to each post: r (b,), 0 without image.

        Raises:
            ValueError: If `propagation` is `none`.
        """
        score = self._read(batch)[1]
        if score is None:
            raise ValueError("Expected propagation 'soft' or 'hard', but it is 'none', which tells no relation")
        return score.sigmoid() * self.raw_regions(batch)[1].any(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging`, and where the batch has relations `relation`, times λ; of posts with an image."""
        words, score = self._read(batch)
        found = {"tagging": self.nll(self.emit(words, batch["word_mask"], *self.regions(batch)), batch)}
        relation = batch.get("relation")
        if relation is not None and score is not None and (weight := self.hparams["relation_weight"]):
            found["relation"] = weight * soft_label_loss(score, relation.masked_fill(~batch["has_image"], torch.nan))
        return found

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Words (b, w, d), and the relation before its sigmoid (b,)."""
        regions, region_mask = self.raw_regions(batch)
        words, score = self.stream.propagate(
            self.text_encoder.model,
            batch["token_ids"],
            batch["token_mask"],
            batch["segment_ids"],
            batch["word_starts"],
            regions,
            region_mask,
            partial(self.text_encoder.gather, batch=batch),
        )
        return self.word_projection(self.text_encoder.read(words, batch)), score
