"""Layer by layer is the same as in one call, wherever it is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from mner.encoders import steps
from mner.encoders.steps import STEPWISE, stack
from mner.encoders.text import TextEncoder

from .tiny_models import encoder, padded

REFUSED = ["albert", "deberta-v2", "mpnet", "modernbert", "t5"]
BOTH = [(kind, attention) for kind in STEPWISE for attention in ("sdpa", "eager")
        if (kind, attention) != ("visual_bert", "sdpa")]  # which transformers does not have  # fmt: skip
either = pytest.mark.parametrize(("kind", "attention"), BOTH)


def stepped(text_encoder, ids, mask, segments):
    states, layer_mask = text_encoder.embed(ids, mask, segments)
    for layer in text_encoder.layers:
        states = layer(states, layer_mask)
    return states


@either
def test_steps_equal_one_call(kind, attention):
    text_encoder, inputs = encoder(kind, attention), padded()
    torch.testing.assert_close(stepped(text_encoder, *inputs), text_encoder(*inputs), atol=1e-5, rtol=0)


@either
def test_without_padding(kind, attention):
    text_encoder, (ids, _, segments) = encoder(kind, attention), padded()
    inputs = ids.clamp(min=3), torch.ones_like(ids, dtype=torch.bool), segments
    torch.testing.assert_close(stepped(text_encoder, *inputs), text_encoder(*inputs), atol=1e-5, rtol=0)


@either
def test_in_training_with_the_same_dropout_and_gradients(kind, attention):
    text_encoder, inputs = encoder(kind, attention).train(), padded()
    gradients = []
    for call in (lambda: text_encoder(*inputs), lambda: stepped(text_encoder, *inputs)):
        text_encoder.zero_grad()
        torch.manual_seed(1)
        states = call()
        states.square().sum().backward()
        gradients.append([states.detach()] + [p.grad.clone() for p in text_encoder.parameters() if p.grad is not None])
    torch.manual_seed(2)
    assert not torch.allclose(stepped(text_encoder, *inputs), gradients[0][0], atol=1e-3), "dropout was active"
    assert len(gradients[0]) == len(gradients[1]) > 20
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", STEPWISE)
def test_the_segments_and_the_mask_count(kind):
    text_encoder, (ids, mask, segments) = encoder(kind), padded()
    states = stepped(text_encoder, ids, mask, segments)
    other_padding = stepped(text_encoder, ids.masked_fill(~mask, 1), mask, segments)
    torch.testing.assert_close(other_padding[mask], states[mask])
    assert not torch.allclose(stepped(text_encoder, ids, mask | True, segments)[1], states[1], atol=1e-3)
    changed = stepped(text_encoder, ids, mask, torch.zeros_like(segments))
    assert torch.allclose(changed, states) is not text_encoder.has_segments


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_batch_or_its_ids(kind):
    text_encoder, (ids, mask, segments) = encoder(kind), padded()
    states, layer_mask = text_encoder.embed(ids, mask, segments)
    batch = {"token_ids": ids, "token_mask": mask, "segment_ids": segments, "words": []}
    assert torch.equal(text_encoder.embed(batch)[0], states)
    assert torch.equal(text_encoder.embed(batch)[1], layer_mask)
    one, zero = torch.ones_like(mask), torch.zeros_like(segments)
    assert torch.equal(text_encoder.embed(ids)[0], text_encoder.embed(ids, one, zero)[0])
    assert text_encoder.embed(ids)[1] is None


@pytest.mark.parametrize("kind", STEPWISE)
def test_layers_are_the_models_own(kind):
    text_encoder = encoder(kind)
    own = set(text_encoder.model.modules())
    assert len(text_encoder.layers) == 2
    assert all(layer in own or layer.layer in own for layer in text_encoder.layers)
    parameters = {id(parameter) for parameter in text_encoder.parameters()}
    keys = list(text_encoder.state_dict())
    assert {id(parameter) for layer in text_encoder.layers for parameter in layer.parameters()} < parameters
    assert list(text_encoder.state_dict()) == keys, "asking for layers adds nothing"
    seen = []
    handle = getattr(text_encoder.layers[1], "layer", text_encoder.layers[1]).register_forward_hook(
        lambda *_: seen.append(1)
    )
    stepped(text_encoder, *padded())
    handle.remove()
    assert seen == [1]


@pytest.mark.parametrize("kind", STEPWISE)
def test_rows_that_come_in_later(kind):
    """Masked, they change nothing; real, words and they see each other."""
    text_encoder, (ids, mask, segments) = encoder(kind), padded()
    regions = torch.randn(3, 4, 16)

    def run(region_mask):
        states, layer_mask = text_encoder.embed(ids, mask, segments)
        first, second = text_encoder.layers
        states = torch.cat([first(states, layer_mask), regions], 1)
        return second(states, text_encoder.layer_mask(states, torch.cat([mask, region_mask], 1)))

    hidden = torch.zeros(3, 4, dtype=torch.bool)
    torch.testing.assert_close(run(hidden)[:, :9], text_encoder(ids, mask, segments), atol=1e-5, rtol=0)
    assert not torch.allclose(run(~hidden)[:, :9], text_encoder(ids, mask, segments), atol=1e-3)


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_by_name(kind):
    text_encoder, inputs = encoder(kind), padded()
    for call in (lambda: text_encoder.layers, lambda: text_encoder.embed(*inputs),
                 lambda: text_encoder.layer_mask(torch.zeros(3, 9, 16), inputs[1])):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(", ".join(STEPWISE)) + rf".*'{kind}'"):
            call()


def test_decoders_other_modules_and_wrong_masks_are_refused():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, is_decoder=True)
    with pytest.raises(ValueError, match="is a decoder"):
        steps.layers(BertModel(config))
    with pytest.raises(ValueError, match="Linear of kind None"):
        steps.layers(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"\(3, 9\).*\(3, 8\)"):
        encoder("bert").layer_mask(torch.zeros(3, 9, 16), torch.ones(3, 8, dtype=torch.bool))


def test_the_documented_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "encoder_steps.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})


def test_the_built_in_encoder_can_be_taken_apart():
    text_encoder = TextEncoder("tiny").eval()
    ids, mask, segments = padded()
    torch.testing.assert_close(
        stepped(text_encoder, ids, mask, segments), text_encoder(ids, mask, segments), atol=1e-5, rtol=0
    )


STACKS = ["bert", "deberta-v2", "distilbert", "mpnet", "t5", "visual_bert"]


@pytest.mark.parametrize("kind", STACKS)
def test_the_stack_of_layers(kind):
    """Found in encoders too that cannot be run layer by layer; the layers hold most of what learns."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    config = AutoConfig.for_model(kind, num_hidden_layers=2, **({} if kind == "t5" else {"n_layers": 2}), **sizes)
    model = AutoModel.from_config(config)
    model = model.get_encoder() if kind == "t5" else model
    found = stack(model)
    assert len(found) == 2
    assert len({id(parameter) for layer in found for parameter in layer.parameters()}) == sum(
        1 for layer in found for _ in layer.parameters()
    )
    kinds = {type(layer) for layer in found}
    assert len(kinds) == 1
    assert sum(isinstance(part, *kinds) for part in model.modules()) == 2


def test_shared_layers_are_no_stack():
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    with pytest.raises(ValueError, match="weights of its own, but AlbertModel of kind 'albert' has 0"):
        stack(AutoModel.from_config(AutoConfig.for_model("albert", num_hidden_layers=3, embedding_size=8, **sizes)))
