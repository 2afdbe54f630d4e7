"""A text encoder one layer at a time, for fusions that put something in between (ViLBERT, MKGformer, PROMU)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

STEPWISE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "visual_bert")
"""`model_type` of the encoders whose layers need states and mask and nothing else."""


def embed(
    model: Any, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """What the first layer of a transformers model gets.

    Args:
        model: The transformers model (`TextEncoder.model`).
        token_ids: Word pieces (b, t).
        token_mask: Which of them are real (b, t), bool.
        segment_ids: (b, t), or None for a model without segments.

    Returns:
        States (b, t, d), and the mask as the layers want it; see `layer_mask`.

    Raises:
        ValueError: If this kind of model cannot be taken apart.
    """
    check(model)
    segments = {} if segment_ids is None else {"token_type_ids": segment_ids}
    states: Tensor = model.embeddings(input_ids=token_ids, **segments)
    project = getattr(model, "embeddings_project", None)  # ELECTRA, where embeddings are narrower than layers
    if project is not None:
        states = project(states)
    return states, layer_mask(model, states, token_mask)


def layer_mask(model: Any, states: Tensor, mask: Tensor) -> Tensor | None:
    """The mask (b, 1, t, t) that layers want, bool or added to their scores, for one of rows (b, t).

    For states that are longer than the text: append regions (b, r, d) to the states and their mask (b, r) to the
    text's, and make the mask of both.

    Args:
        model: The transformers model.
        states: What the next layer will get (b, t, d).
        mask: Which rows are real (b, t), bool.

    Returns:
        The mask; None where all rows are real and the model needs none.

    Raises:
        ValueError: If `mask` does not fit `states`, or if this kind of model cannot be taken apart.
    """
    from transformers.masking_utils import create_bidirectional_mask

    check(model)
    if mask.shape != states.shape[:2]:
        raise ValueError(
            f"Expected a mask (b, t) = {tuple(states.shape[:2])} for these states, but got {tuple(mask.shape)}"
        )
    made: Tensor | None = create_bidirectional_mask(model.config, states, mask.long())
    return made


def layers(model: Any) -> list[nn.Module]:
    """The layers of a transformers model, first to last; `states = layer(states, mask)` is a step.

    They are the model's own modules, with its parameters and hooks. VisualBERT's return a tuple, and come wrapped in a
    module that opens it; theirs is its attribute `layer`.

    Raises:
        ValueError: If this kind of model cannot be taken apart.
    """
    if check(model) == "distilbert":
        return list(model.transformer.layer)
    found = list(model.encoder.layer)
    return [_Opened(layer) for layer in found] if model.config.model_type == "visual_bert" else found


def stack(model: Any) -> list[nn.Module]:
    """The layers of a transformers model, first to last, for what need not run them one by one: their weights.

    These are found in more kinds of models than `layers` can run: DeBERTa, MPNet, ModernBERT, T5 and BART among them.

    Raises:
        ValueError: If it is not clear which parts are the layers, as where all layers share one's weights (ALBERT).
    """
    config = getattr(model, "config", None)
    wanted = {getattr(config, name, None) for name in ("num_hidden_layers", "num_layers", "n_layers", "encoder_layers")}
    names = ("layer", "layers", "block")
    found = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] in names and len(part) in wanted
    ]
    inner = {id(part) for outer in found for part in outer.modules() if part is not outer}  # T5's blocks have `layer`
    found = [part for part in found if id(part) not in inner]
    if len(found) != 1:
        raise ValueError(
            "Expected a text encoder that is a stack of layers, each with weights of its own, but "
            f"{type(model).__name__} of kind {getattr(config, 'model_type', None)!r} has {len(found)} such stacks; "
            "choose another encoder"
        )
    return list(found[0])


def check(model: Any) -> str:
    """The kind of a model that can be taken apart, its `model_type`.

    Raises:
        ValueError: If it is of another kind, or a decoder.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in STEPWISE:
        raise ValueError(
            f"Expected a text encoder that can be run layer by layer ({', '.join(STEPWISE)}), but got "
            f"{type(model).__name__} of kind {kind!r}, whose layers share weights or need more than states and mask; "
            "choose one of those encoders"
        )
    if getattr(config, "is_decoder", False):
        raise ValueError(f"Expected an encoder, but {type(model).__name__} is a decoder; set is_decoder to False")
    return str(kind)


class _Opened(nn.Module):
    """A layer that returns a tuple, of which only the states go on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        opened: Tensor = self.layer(states, mask)[0]
        return opened  # (b, t, d)
