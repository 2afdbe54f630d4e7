"""MoRe's mixture: by hand from its experts, which are models of their own; frozen, shared, saved and tagged with."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mner.data import SampleDataModule
from mner.errors import CheckpointError, DataNotFoundError
from mner.fusion import CrossViewAlignment, FusionModule, RetrievalExperts, TextOnly, VisualAttention
from mner.nn.objectives import only_context
from mner.tagger.onnx import export_onnx
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from mner.testing import check_fusion
from mner.training import RDrop, Trainer
from tests.fusion.samples import build, close, sample, wide

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
CONTEXTS = ["captions.jsonl", "tags.jsonl"]
BOTH = {"contexts"}


def shared():
    """One encoder, whose weights make the context count."""
    module = build(RetrievalExperts)
    wide(module.text_encoder, 0.1)
    return module


def expert_of(module):
    """The model that each expert of `shared` is."""
    text = build(TextOnly)
    text.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("gate")})
    return text


def decided(module, *weights):
    """A gate that says the same for every post."""
    with torch.no_grad():
        module.gate.weight.zero_()
        module.gate.bias.copy_(torch.tensor(weights).log().clamp(min=-1e3))
    return module


def marginals(text, batch):
    return text.crf.marginals(text.emissions(batch), batch["word_mask"], constrained=False)


@torch.no_grad()
@pytest.mark.parametrize("source", [1, 2])
def test_a_gate_that_trusts_one_expert_gives_its_marginals(source):
    batch = sample(needs=BOTH)
    module = decided(shared(), *(1.0 if number == source else 0.0 for number in (1, 2)))
    expected = marginals(expert_of(module), only_context(batch, source))
    other = marginals(expert_of(module), only_context(batch, 3 - source))
    mask = batch["word_mask"]
    assert close(module.posterior(batch).float(), expected, mask)
    assert not close(expected, other, mask, 1e-3)


@torch.no_grad()
def test_the_mixture_by_hand():
    batch, module = sample(needs=BOTH), decided(shared(), 0.3, 0.7)
    text, mask = expert_of(module), batch["word_mask"]
    one, two = (marginals(text, only_context(batch, source)) for source in (1, 2))
    p = module.posterior(batch)
    assert close(p.float(), 0.3 * one + 0.7 * two, mask)
    torch.testing.assert_close(p[mask].sum(-1), torch.ones(int(mask.sum()), dtype=p.dtype))
    parts = module.losses(batch)
    gold = p.gather(-1, batch["tags"][..., None])[..., 0][mask]
    assert parts["tagging"].item() == pytest.approx(-gold.log().mean().item(), rel=1e-4)
    each = [text.losses(only_context(batch, source))["tagging"].item() for source in (1, 2)]
    assert parts["experts"].item() == pytest.approx(sum(each) / 2, rel=1e-4)
    assert module(batch) == module.decode(p.log(), batch)


@torch.no_grad()
def test_the_gate_reads_each_experts_mean_word():
    batch, module = sample(needs=BOTH), shared()
    text = expert_of(module)
    for row in range(6):
        words = int(batch["word_mask"][row].sum())
        means = [text.encode(only_context(batch, source))[row, :words].mean(0) for source in (1, 2)]
        expected = (module.gate.weight @ torch.cat(means) + module.gate.bias).softmax(0)
        torch.testing.assert_close(module.weights(batch)[row], expected, atol=1e-4, rtol=1e-3)
    assert module.weights(batch).std(0).max() > 1e-3


def test_texts_of_one_source_count_as_the_first():
    module, batch = shared(), sample()
    assert "context_ids" not in batch
    with torch.no_grad():
        first = decided(module, 1.0, 0.0).posterior(batch)
        assert close(first.float(), marginals(expert_of(module), batch), batch["word_mask"])


# Experts that were trained before


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two experts, each trained a little with a source of its own."""
    root = tmp_path_factory.mktemp("more")
    for number, (cls, source) in enumerate(zip((TextOnly, CrossViewAlignment), CONTEXTS, strict=True)):
        pl.seed_everything(number, verbose=False)
        data = sample_data(root, [source])
        model = cls(data.labels, learning_rate=1e-3, head_learning_rate=1e-2)
        trainer = Trainer(max_epochs=2, limit_val_batches=1, enable_checkpointing=False, **QUIET)
        trainer.fit(model, datamodule=data)
        trainer.save_checkpoint(root / f"{source}.ckpt")
    return root


def sample_data(root, context, **options):
    return SampleDataModule(str(root / "sample"), train=24, batch_size=8, context=context, **options)


def paths(root):
    return [str(root / f"{source}.ckpt") for source in CONTEXTS]


def test_frozen_experts_are_what_they_were(root, tmp_path):
    data = sample_data(root, CONTEXTS)
    pl.seed_everything(0, verbose=False)
    model = RetrievalExperts(data.labels, experts=paths(root), head_learning_rate=1e-2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(max_epochs=2, limit_val_batches=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"gate.weight", "gate.bias"}
    assert "train/experts_loss" not in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "mixture.ckpt")

    batch = next(iter(data.val_dataloader()))
    mask = batch["word_mask"]
    experts = [FusionModule.load_from_checkpoint(path) for path in paths(root)]
    assert model.train().training
    assert not any(part.training for name, part in model.named_modules() if name.startswith(("text_enc", "others")))
    with torch.no_grad():
        one, two = (marginals(text, only_context(batch, number)) for number, text in enumerate(experts, start=1))
        weights = model.weights(batch)[:, None, :, None]
        assert close(model.posterior(batch), weights[:, :, 0] * one + weights[:, :, 1] * two, mask)
        assert not close(one, two, mask, 1e-3)
        # The checkpoint needs those of the experts no more.
        for path in paths(root):
            assert path.encode() not in (tmp_path / "mixture.ckpt").read_bytes()
        loaded = FusionModule.load_from_checkpoint(tmp_path / "mixture.ckpt")
        assert close(loaded.posterior(batch), model.eval().posterior(batch), mask)
    assert loaded.hparams["experts"] == [None, None]
    assert [name for name, value in loaded.named_parameters() if value.requires_grad] == ["gate.weight", "gate.bias"]

    tagger = Tagger.from_checkpoint(tmp_path / "mixture.ckpt", device="cpu")
    posts = data.examples("valid")[:6]
    found = tagger([Post(words=post.words, context=post.context) for post in posts])
    data.serve(loaded)
    (served,) = data.loader(posts)
    expected = dict(zip(served["id"], loaded(served), strict=True))
    tags = [[loaded.labels[index] for index in expected[post.id]] for post in posts]
    assert tags == [list(one.tags) for one in found]
    with pytest.raises(CheckpointError, match="own `posterior`"):
        export_onnx(tagger, tmp_path / "out")


def test_checkpoints_that_are_no_experts_are_refused(root, tmp_path):
    labels = sample_data(root, CONTEXTS).labels
    first = paths(root)[0]

    def saved(model):
        pl.Trainer(**QUIET).strategy.connect(model)
        checkpoint = {"state_dict": model.state_dict()}
        model.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, tmp_path / "other.ckpt")
        return [first, str(tmp_path / "other.ckpt")]

    for model, said in (
        (VisualAttention(labels, region_width=3), "of TextOnly or CrossViewAlignment, but .* of VisualAttention"),
        (TextOnly(["O", "B-PER", "I-PER"]), r"the entity types \['PER'.*, but that at .* is for \['PER'\]"),
        (TextOnly(labels, hidden_size=6), "the `text_encoder` and `hidden_size` that are named here"),
    ):
        with pytest.raises(CheckpointError, match=said):
            RetrievalExperts(labels, experts=saved(model))
    with pytest.raises(CheckpointError, match=r"No checkpoint at 'nowhere\.ckpt'"):
        RetrievalExperts(labels, experts=[first, "nowhere.ckpt"])


# Trained together


def test_all_learns_with_one_encoder(root):
    data = sample_data(root, CONTEXTS)
    module = RetrievalExperts(data.labels).train()
    trainer = Trainer(max_steps=2, limit_val_batches=1, enable_checkpointing=False, **QUIET)
    trainer.fit(module, datamodule=data)
    sum(module.losses(next(iter(data.train_dataloader()))).values()).backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []
    assert {"train/tagging_loss", "train/experts_loss"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize(
    ("context", "options", "error", "said"),
    [
        ([], {}, DataNotFoundError, r"needs contexts, texts of two sources or more, but SampleDataModule has none"),
        (CONTEXTS[:1], {}, DataNotFoundError, r"has \['captions'\]: give its `context` a file for each"),
        (CONTEXTS, {"sources": 3}, ValueError, r"as many experts as sources .* got 3 for \['captions', 'tags'\]"),
    ],
)
def test_data_with_other_sources_are_refused_before_training(root, context, options, error, said):
    data = sample_data(root, context)
    with pytest.raises(error, match=said):
        Trainer(max_steps=1, **QUIET).fit(RetrievalExperts(data.labels, **options), datamodule=data)


def test_fewer_than_two_experts_are_refused():
    for options in ({"sources": 1}, {"experts": [None]}):
        with pytest.raises(ValueError, match="two experts at least, but got 1"):
            build(RetrievalExperts, **options)


def test_label_sets_are_for_one_encoder():
    sets = {"one": ["O", "B-PER", "I-PER"], "two": ["O", "B-LOC", "I-LOC"]}
    with pytest.raises(ValueError, match="one list of labels with `experts`"):
        RetrievalExperts(sets, experts=[None, None])
    batch = {**sample(needs=BOTH), "label_set": "two"}
    module = RetrievalExperts(sets)
    sum(module.losses({**batch, "tags": batch["tags"].clamp(max=2)}).values()).backward()
    assert module.heads["one"].weight.grad is None
    assert module.heads["two"].weight.grad.any()
    assert module.emissions(batch).shape[-1] == 3


def test_rdrop_is_refused_by_name(root):
    data = sample_data(root, CONTEXTS)
    with pytest.raises(ValueError, match="RetrievalExperts decodes a mixture of label distributions"):
        Trainer(max_steps=1, callbacks=[RDrop()], **QUIET).fit(RetrievalExperts(data.labels), datamodule=data)


@pytest.mark.slow
def test_frozen_experts_hold_what_every_strategy_must():
    check_fusion(RetrievalExperts, experts=[None, None])


@torch.no_grad()
def test_an_expert_reads_no_places_of_the_others_texts():
    batch, seen = sample(needs=BOTH), []
    module = shared().eval()
    module.text_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    module.posterior(batch)
    longest = [int(only_context(batch, source)["token_mask"].sum(1).max()) for source in (1, 2)]
    assert seen == longest
    assert max(longest) < batch["token_ids"].shape[1]
