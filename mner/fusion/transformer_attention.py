"""Text and regions in one stream through the text encoder: TAM, Exp 3.1 of Chen et al. (2021), and from a layer on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders import steps
from mner.encoders.visual_bert import MODEL_TYPE, visual_parameters
from mner.fusion.base import FusionModule
from mner.nn.masking import first_pieces

Gather = Callable[[Tensor], Tensor]
"""Words (b, w, d) of states (b, t + r, d)."""

# Encoders whose only order is in their position embeddings, so that regions can share one. Each is tested.
SUPPORTED = (MODEL_TYPE, "albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


class SingleStream(nn.Module):
    """Reads regions with a transformers encoder as if they were more word pieces.

    ::

        text_j   = Word(x_j) + Type(s_j) + Position(j)                                      (d)
        visual_i = W v_i + b + Type_v + Position_v, for every i the same                    (d)
        states   = layers(dropout(LayerNorm([text_1 … text_t ; visual_1 … visual_r])))      (t + r, d)
        output   = states at each word's first piece                                        (w, d)

    with the attention mask [text mask ; region mask]. All regions have one position: their order means nothing.

    Paper: Li et al. (2019, VisualBERT), as used by Chen et al. (2021), section 3.3. The authors' code writes the mask
    as ones on the first (real pieces + most regions) slots although regions begin after the padded text, so that in a
    batch shorter posts attend to padding and lose regions; here each post sees its own pieces and its own regions.

    Two kinds of encoders:

    - **VisualBERT** embeds regions with weights of its own (`visual_embedding_dim` wide). Where the regions have
      another width, a fresh Linear comes before; then those pre-trained weights see what they were not trained on.
    - **Any other of** `SUPPORTED` has no such weights: W and b are fresh; Type_v and Position_v start as the encoder's
      second type (its only one in RoBERTa) and first position, as VisualBERT itself was started from BERT.

    Encoders with relative or rotary positions (MPNet, DeBERTa, ModernBERT) are refused: in them a region's place in the
    sequence would count, and so would the padding before it.

    The encoder is given at each call, not kept: in a `FusionModule` it belongs to the text encoder, in the checkpoint
    and for the learning rate.

    Args:
        model: The encoder that will be called, for its sizes and starting values.
        region_width: Width f of a region.

    Raises:
        ValueError: If the encoder is of a kind that cannot read regions.

    >>> from transformers import BertConfig, BertModel
    >>> sizes = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    >>> encoder = BertModel(BertConfig(**sizes, num_hidden_layers=1))
    >>> stream = SingleStream(encoder, region_width=16)
    >>> token_ids, starts = torch.arange(12).view(2, 6), torch.arange(1, 5).expand(2, 4)
    >>> regions, mask = torch.randn(2, 3, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> stream(encoder, token_ids, mask[:, :6], torch.zeros_like(token_ids), starts, regions, mask[:, 6:]).shape
    torch.Size([2, 4, 8])
    """

    regions_follow_pieces: ClassVar[bool] = True  # for attention maps

    def __init__(self, model: Any, region_width: int) -> None:
        super().__init__()
        config = model.config
        if config.model_type not in SUPPORTED:
            raise ValueError(
                f"Expected a text encoder with absolute positions, one of the kinds {', '.join(SUPPORTED)}, but got "
                f"{config.model_type!r}; choose another encoder, or another strategy"
            )
        self.has_visual_weights = config.model_type == MODEL_TYPE
        if self.has_visual_weights:
            if config.bypass_transformer:
                raise ValueError("Expected a VisualBERT with bypass_transformer false, but its config.json says true")
            for parameter in visual_parameters(model):
                parameter.requires_grad_(True)  # the text encoder freezes them, since text alone never reaches them
            same = region_width == config.visual_embedding_dim
            self.projection = nn.Identity() if same else nn.Linear(region_width, config.visual_embedding_dim)
        else:
            type_, position = _constants(model)
            self.projection = nn.Linear(region_width, len(position))
            self.type_embedding = nn.Parameter(type_.detach().clone())
            self.position_embedding = nn.Parameter(position.detach().clone())

    def forward(
        self,
        model: Any,
        token_ids: Tensor,
        token_mask: Tensor,
        segment_ids: Tensor,
        word_starts: Tensor,
        regions: Tensor,
        region_mask: Tensor,
        scale: Tensor | None = None,
        gather: Gather | None = None,
    ) -> Tensor:
        """Read text and regions together.

        Args:
            model: The encoder.
            token_ids: (b, t).
            token_mask: (b, t) bool, true = real.
            segment_ids: (b, t), 0 for the post and 1 for its context.
            word_starts: (b, w), where each word's first piece is.
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real.
            scale: What projected regions are multiplied by, (b, 1, 1) or (b, r, 1); None for 1.
            gather: Words (b, w, d) of states (b, t + r, d); None for first pieces.

        Returns:
            (b, w, d).
        """
        regions = self.projection(regions)
        if scale is not None:
            regions = regions * scale
        if self.has_visual_weights:
            states = model(
                input_ids=token_ids,
                attention_mask=token_mask.long(),
                token_type_ids=segment_ids,
                visual_embeds=regions,
                visual_attention_mask=region_mask.long(),
            ).last_hidden_state
        else:
            states = self._read(model, token_ids, token_mask, segment_ids, regions, region_mask)
        return first_pieces(states, word_starts) if gather is None else gather(states)

    def _read(
        self,
        model: Any,
        token_ids: Tensor,
        token_mask: Tensor,
        segment_ids: Tensor,
        regions: Tensor,
        region_mask: Tensor,
    ) -> Tensor:
        embeddings = model.embeddings
        # The encoder adds a type and a position of the text's tables to whatever it is given. Taking them off here
        # leaves the visual ones, and the text's rows get no gradient from regions.
        type_, position = _constants(model)
        visual = regions + self.type_embedding + self.position_embedding - (type_ + position)  # (b, r, d)
        text = model.get_input_embeddings()(token_ids)  # (b, t, d)
        positions, first = _positions(embeddings.position_embeddings.padding_idx, token_mask)
        options = {"position_ids": torch.cat([positions, first.expand(region_mask.shape)], 1)}
        types = getattr(embeddings, "token_type_embeddings", None)
        if types is not None:
            second = min(1, types.num_embeddings - 1)
            options["token_type_ids"] = torch.cat(
                [segment_ids.clamp(max=second), segment_ids.new_full(region_mask.shape, second)], 1
            )
        mask = torch.cat([token_mask, region_mask], 1).long()
        states: Tensor = model(
            inputs_embeds=torch.cat([text, visual.to(text.dtype)], 1), attention_mask=mask, **options
        ).last_hidden_state
        return states  # (b, t + r, d)


class LateStream(nn.Module):
    """As `SingleStream`, but the first k layers read the text alone; regions join it for those that remain.

    ::

        text     = layers 1 … k (embeddings of the pieces)                                  (t, d)
        visual_i = LayerNorm(W v_i + b)                                                     (d)
        states   = layers k + 1 … ([text_1 … text_t ; visual_1 … visual_r])                 (t + r, d)
        output   = states at each word's first piece                                        (w, d)

    Paper: Hu et al. (2023), "Prompt me up: Unleashing the power of alignments for multimodal entity and relation
    extraction", MM 2023, whose tagger reads text with lower layers of a BERT, the image with a ViT, and both with the
    remaining layers. The code of its tagger was not released, nor is its pre-training here.

    Chosen here: the LayerNorm, since each layer of the encoder reads what one has just made; regions have no type and
    no position, so that their order means nothing.

    Args:
        model: The encoder that will be called, for its sizes.
        region_width: Width f of a region.
        start_layer: k, at least 1 and less than the encoder has layers.

    Raises:
        ValueError: If the encoder cannot be run layer by layer or is a VisualBERT, or has too few layers.

    >>> from transformers import BertConfig, BertModel
    >>> sizes = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    >>> encoder = BertModel(BertConfig(**sizes, num_hidden_layers=3))
    >>> stream = LateStream(encoder, region_width=16, start_layer=2)
    >>> token_ids, starts = torch.arange(12).view(2, 6), torch.arange(1, 5).expand(2, 4)
    >>> regions, mask = torch.randn(2, 3, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> stream(encoder, token_ids, mask[:, :6], torch.zeros_like(token_ids), starts, regions, mask[:, 6:]).shape
    torch.Size([2, 4, 8])
    """

    regions_follow_pieces: ClassVar[bool] = True  # for attention maps

    def __init__(self, model: Any, region_width: int, start_layer: int) -> None:
        super().__init__()
        if steps.check(model) == MODEL_TYPE:
            raise ValueError(
                "Expected a text encoder without weights for regions where they join at `start_layer`, but got a "
                "VisualBERT, which reads them from its first layer on; choose a BERT, or start_layer 0"
            )
        count = len(steps.layers(model))
        if not 1 <= start_layer < count:
            raise ValueError(f"Expected `start_layer` of 1 … {count - 1} for {count} layers, but got {start_layer}")
        self.start_layer = start_layer
        self.projection = nn.Linear(region_width, model.config.hidden_size)
        self.norm = nn.LayerNorm(model.config.hidden_size, eps=1e-12)  # BERT's

    def forward(
        self,
        model: Any,
        token_ids: Tensor,
        token_mask: Tensor,
        segment_ids: Tensor,
        word_starts: Tensor,
        regions: Tensor,
        region_mask: Tensor,
        gather: Gather | None = None,
    ) -> Tensor:
        """Read the text, then text and regions; arguments and result are those of `SingleStream`."""
        has_segments = getattr(model.config, "type_vocab_size", 0) > 1
        states, mask = steps.embed(model, token_ids, token_mask, segment_ids if has_segments else None)
        layers = steps.layers(model)
        for layer in layers[: self.start_layer]:
            states = layer(states, mask)
        visual = self.norm(self.projection(regions)).to(states.dtype)
        states = torch.cat([states, visual], 1)  # (b, t + r, d)
        mask = steps.layer_mask(model, states, torch.cat([token_mask, region_mask], 1))
        for layer in layers[self.start_layer :]:
            states = layer(states, mask)
        return first_pieces(states, word_starts) if gather is None else gather(states)


class TransformerAttention(FusionModule):
    """TAM, Exp 3.1: regions are read by the text encoder itself, next to the word pieces; see `SingleStream`.

    `emissions = Linear(dropout(states of first pieces))`. With a VisualBERT as `text_encoder` this is the paper's
    model; with BERT and its kin the regions' embedding is fresh.

    Paper: Li et al. (2019), as used by Chen et al. (2021), section 3.3. With `start_layer`, the tagger of Prompt-Me-Up
    (Hu et al. 2023): lower layers read the text alone; see `LateStream`.

    Args:
        args: As for `FusionModule`.
        start_layer: Layers that read the text before the regions join it; 0 for regions from the beginning.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If the encoder cannot read regions so, or has no layer left for them.
    """

    def __init__(self, *args: Any, start_layer: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # the stream has its own, to the width of the encoder
        model = self.text_encoder.model
        self.stream: SingleStream | LateStream = (
            LateStream(model, self.region_width, start_layer) if start_layer else SingleStream(model, self.region_width)
        )

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        regions, region_mask = self.raw_regions(batch)
        words = self.stream(
            self.text_encoder.model,
            batch["token_ids"],
            batch["token_mask"],
            batch["segment_ids"],
            batch["word_starts"],
            regions,
            region_mask,
            gather=partial(self.text_encoder.gather, batch=batch),
        )
        projected: Tensor = self.word_projection(self.text_encoder.read(words, batch))
        return projected

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): they are in the words already, and the image encoder must not run twice."""
        mask = batch["word_mask"][:, :0]
        return self.head.weight.new_zeros(*mask.shape, self.width), mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words


def _constants(model: Any) -> tuple[Tensor, Tensor]:
    """The rows of the text's tables that the encoder adds to a region: second (or only) type, and first position."""
    embeddings = model.embeddings
    places = embeddings.position_embeddings
    position = places.weight[0 if places.padding_idx is None else places.padding_idx + 1]
    types = getattr(embeddings, "token_type_embeddings", None)
    return torch.zeros_like(position) if types is None else types.weight[min(1, types.num_embeddings - 1)], position


def _positions(padding: int | None, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Position of each piece (b, t), as the encoder counts them, and the first position (1, 1)."""
    real = token_mask.long()
    if padding is None:  # BERT: 0, 1, 2 …, padding included
        positions = torch.arange(real.shape[1], device=real.device).expand_as(real)
        return positions, positions.new_zeros(1, 1)
    # RoBERTa: counted from the padding index on; where padding is makes no difference
    return real.cumsum(1) + padding, real.new_full((1, 1), padding + 1)
