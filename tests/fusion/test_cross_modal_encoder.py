"""LXMERT: against transformers' own call, and what of it learns."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from transformers import LxmertConfig, LxmertModel

from mner.data.sample.batches import rearranged
from mner.encoders.text import TextEncoder
from mner.fusion import CrossModalEncoder, FusionModule
from mner.nn.masking import first_pieces
from mner.testing import check_fusion
from tests.fusion.samples import F, build, close, labels, sample, wide

NO_IMAGE = 2
SIZES = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "l_layers": 2, "r_layers": 1}


def configuration(**options):
    vocabulary = TextEncoder("tiny").config["vocab_size"]
    return LxmertConfig(vocab_size=vocabulary, x_layers=2, visual_feat_dim=F, **SIZES, **options)


@pytest.fixture
def module():
    """With an LXMERT that is built from its configuration alone, as from a checkpoint."""
    module = build(CrossModalEncoder, text_encoder=configuration().to_dict())
    wide(module.text_encoder, 0.1)
    return module


@pytest.fixture
def batch():
    return sample(needs={"boxes"})


@torch.no_grad()
def test_it_is_what_transformers_computes(module, batch):
    whole = LxmertModel(configuration()).eval()
    spare = whole.load_state_dict(module.text_encoder.model.state_dict(), strict=False)
    assert all(name.startswith("pooler") for name in spare.missing_keys)
    regions, mask = module.raw_regions(batch)
    boxes = batch["region_boxes"].clone()
    assert not boxes[NO_IMAGE].any()
    boxes[NO_IMAGE, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    states = whole(
        input_ids=batch["token_ids"],
        attention_mask=batch["token_mask"].long(),
        token_type_ids=batch["segment_ids"],
        visual_feats=regions,
        visual_pos=boxes,
        visual_attention_mask=mask.long(),
    ).language_output
    assert not mask.all()
    assert not batch["token_mask"].all()
    expected = first_pieces(states, batch["word_starts"])
    assert close(module.encode(batch), expected, batch["word_mask"])


@torch.no_grad()
def test_fresh_layers_stand_on_the_output_of_another_encoder(batch):
    module = build(CrossModalEncoder, object_layers=2, cross_layers=1)
    text = module.text_encoder(batch["token_ids"], batch["token_mask"], batch["segment_ids"])
    regions, mask = module.raw_regions(batch)
    pieces, seen = (each.float().masked_fill(~each, -1e30)[:, None, None] for each in (batch["token_mask"], mask))
    pieces, seen = pieces.clamp(max=0), seen.clamp(max=0)
    objects = module.fresh.visn_fc(regions, module.boxes(batch, mask))
    for layer in module.fresh.r_layers:
        objects = layer(objects, seen)[0]
    (cross,) = module.fresh.x_layers
    states, _ = cross(text, pieces, objects, seen)
    assert close(module.encode(batch), first_pieces(states, batch["word_starts"]), batch["word_mask"])
    assert len(module.fresh.r_layers) == 2
    assert len(module.fresh.layer) == 0


@torch.no_grad()
@pytest.mark.parametrize("own", [True, False])
def test_a_masked_region_is_not_seen_and_its_box_neither(own, module, batch):
    module = module if own else build(CrossModalEncoder)
    hidden = ~batch["region_mask"]
    assert hidden.any()
    other = copy.deepcopy(batch)
    other["regions"][hidden], other["region_boxes"][hidden] = 50.0, 0.0
    hidden[NO_IMAGE] = False  # its one region has its own box
    other["region_boxes"][hidden] = 0.7
    assert close(module.emissions(other), module.emissions(batch), batch["word_mask"])


@torch.no_grad()
@pytest.mark.parametrize("own", [True, False])
def test_places_count_and_their_order_does_not(own, module, batch):
    module = module if own else build(CrossModalEncoder)
    emissions, mask = module.emissions(batch), batch["word_mask"]
    assert close(module.emissions(rearranged(batch, "regions")), emissions, mask)
    shifted = {**batch, "region_boxes": batch["region_boxes"] + 0.2 * batch["region_mask"][..., None]}
    seen = mask & batch["has_image"][:, None]
    difference = (module.emissions(shifted) - emissions).abs()
    assert difference[seen].max() > 1e-4
    assert difference[mask & ~seen].max() < 1e-5


@pytest.mark.parametrize("own", [True, False])
def test_what_is_frozen_is_what_has_no_gradient(own, module, batch):
    module = module if own else build(CrossModalEncoder)
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    assert frozen
    assert all(".x_layers." in f".{name}" and ".visn_" in name for name in frozen), frozen
    module.requires_grad_(True)
    sum(module.losses(batch).values()).backward()
    assert frozen == {name for name, value in module.named_parameters() if value.grad is None}


def test_the_first_position_and_the_post_itself_learn(module, batch):
    module.losses(batch)["tagging"].backward()
    tables = module.text_encoder.model.embeddings
    for table in (tables.position_embeddings, tables.token_type_embeddings):
        assert table.weight.grad[0].any()


def test_regions_of_another_width_go_through_a_linear(batch):
    config = {**configuration().to_dict(), "visual_feat_dim": F + 3}
    module = CrossModalEncoder(labels(), config, region_width=F)
    assert module.region_projection.weight.shape == (F + 3, F)
    assert module.emissions(batch).isfinite().all()


@torch.no_grad()
def test_a_checkpoint_of_an_lxmert_needs_nothing_but_itself(module, batch, tmp_path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    loaded = FusionModule.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert close(loaded.emissions(batch), module.emissions(batch), batch["word_mask"])


@pytest.mark.slow
def test_with_an_lxmert_it_holds_what_every_strategy_must(tmp_path):
    from mner.data.tokenizer import PostTokenizer

    LxmertModel(configuration()).save_pretrained(tmp_path)
    PostTokenizer("tiny").tokenizer.save_pretrained(tmp_path)
    check_fusion(CrossModalEncoder, text_encoder=str(tmp_path))


@pytest.mark.parametrize("options", [{"object_layers": -1}, {"cross_layers": 0}])
def test_too_few_layers_are_refused(options):
    with pytest.raises(ValueError, match="at least 0 and `cross_layers` of at least 1, but got"):
        build(CrossModalEncoder, **options)
