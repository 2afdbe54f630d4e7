"""Techniques that fit any strategy, each against numbers worked out by hand."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from transformers import BertModel, MPNetConfig, MPNetModel

from mner.data import Twitter2017DataModule
from mner.fusion import FusionModule, TextOnly, UnifiedMultimodalTransformer
from mner.nn import divergence
from mner.training import (
    AveragedWeights,
    BestByF1,
    LayerwiseLearningRates,
    LoRA,
    RDrop,
    ReinitializedLayers,
    WordDropout,
)
from tests.tiny_sets import WIDTH, save_small_bert, write_twitter

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def fit(tmp_path, bert_folder):
    """A function that trains a strategy with callbacks: (module, trainer)."""
    root = write_twitter(tmp_path / "data")

    def fit(*callbacks, cls=TextOnly, max_epochs=2, encoder=bert_folder, ckpt_path=None, optimizer=None, **model):
        data = Twitter2017DataModule(str(root), batch_size=2, features="regions" if cls.uses_image else None)
        width = {"region_width": WIDTH} if cls.uses_image else {}
        module = cls(data.labels, text_encoder=encoder, **width, **model)
        if optimizer is not None:
            module.configure_optimizers = lambda: optimizer(module.parameters())
        options = {"max_epochs": max_epochs, "default_root_dir": tmp_path, "enable_checkpointing": False, **QUIET}
        if any(isinstance(callback, BestByF1) for callback in callbacks):
            options["enable_checkpointing"] = True
        trainer = pl.Trainer(callbacks=list(callbacks), **options)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer

    return fit


def test_rates_fall_layer_by_layer(fit):
    module, trainer = fit(LayerwiseLearningRates(decay=0.5), learning_rate=0.08, head_learning_rate=0.3)
    rates = {
        id(parameter): group["initial_lr"] for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }  # fmt: skip
    parts = {
        0.02: module.text_encoder.model.embeddings,
        0.04: module.text_encoder.model.encoder.layer[0],
        0.08: module.text_encoder.model.encoder.layer[1],
        0.3: module.head,
    }
    for rate, part in parts.items():
        assert {round(rates[id(parameter)], 6) for parameter in part.parameters()} == {rate}
    assert len(rates) == len(list(module.parameters())), "each parameter once"
    decays = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert decays[id(module.text_encoder.model.encoder.layer[0].output.dense.bias)] == 0
    assert decays[id(module.text_encoder.model.encoder.layer[0].output.dense.weight)] == 0.01
    assert all(group["lr"] == pytest.approx(0.0) for group in trainer.optimizers[0].param_groups), "the schedule's end"


def test_a_factor_of_one_changes_nothing(fit):
    pl.seed_everything(3, verbose=False)
    plain = fit(learning_rate=1e-2)[0].state_dict()
    pl.seed_everything(3, verbose=False)
    same = fit(LayerwiseLearningRates(decay=1.0), learning_rate=1e-2)[0].state_dict()
    assert all(torch.allclose(same[name], value, atol=1e-6) for name, value in plain.items())


def test_a_resumed_run_keeps_its_rates(fit, tmp_path):
    technique = LayerwiseLearningRates(decay=0.5)
    _, trainer = fit(technique, Halfway(tmp_path / "half.ckpt"), learning_rate=0.01, max_epochs=4)
    _, again = fit(technique, ckpt_path=tmp_path / "half.ckpt", learning_rate=0.01, max_epochs=4)
    rates = [[group["initial_lr"] for group in run.optimizers[0].param_groups] for run in (trainer, again)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 3
    assert again.lr_scheduler_configs[0].scheduler.base_lrs == rates[0]
    assert again.global_step == trainer.global_step


class Halfway(pl.Callback):
    """A checkpoint after the second epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def _cosine(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.04)
    return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)]


def _plateau(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.04)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=1e-9, min_lr=1e-3, patience=0, mode="max")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/f1"}}


@pytest.mark.parametrize("made", [lambda parameters: torch.optim.SGD(parameters, lr=0.04), _cosine, _plateau])
def test_rates_of_another_optimiser(fit, made):
    """As `--optimizer` and `--lr_scheduler` of the command line give it: perhaps without a schedule."""
    module, trainer = fit(LayerwiseLearningRates(decay=0.5), optimizer=made, max_epochs=3)
    groups = trainer.optimizers[0].param_groups
    if made is _plateau:
        assert min(group["lr"] for group in groups) >= 1e-3
        return
    by_part = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    top = by_part[id(module.head.weight)]
    assert by_part[id(module.text_encoder.model.encoder.layer[0].output.dense.weight)] == pytest.approx(top / 2)
    assert by_part[id(module.text_encoder.model.embeddings.word_embeddings.weight)] == pytest.approx(top / 4)


class Steps(pl.Callback):
    """The head's weights after each step, and when they are validated."""

    def __init__(self):
        self.stepped, self.validated = [], []

    def on_train_start(self, trainer, pl_module):
        self.stepped.append(pl_module.head.bias.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.stepped.append(pl_module.head.bias.detach().clone())

    def on_validation_batch_end(self, trainer, pl_module, *args):
        if not trainer.sanity_checking:
            self.validated.append(pl_module.head.bias.detach().clone())


def test_the_average_is_validated_and_kept(fit, tmp_path):
    steps = Steps()
    best = BestByF1(dirpath=tmp_path / "kept")
    module, _ = fit(AveragedWeights(decay=0.5), steps, best, learning_rate=1e-2, max_epochs=1)
    start, *stepped = steps.stepped
    mean, from_start = stepped[0], start  # the average begins with the weights after the first step
    for weights in stepped[1:]:
        mean = 0.5 * mean + 0.5 * weights
    for weights in stepped:
        from_start = 0.5 * from_start + 0.5 * weights
    assert not torch.allclose(mean, stepped[-1], atol=1e-4)
    assert not torch.allclose(mean, from_start, atol=1e-4), "the starting point is seen in the numbers"
    torch.testing.assert_close(steps.validated[-1], mean)
    kept = FusionModule.load_from_checkpoint(best.best_model_path)
    torch.testing.assert_close(kept.head.bias.detach(), mean)
    torch.testing.assert_close(module.head.bias.detach(), mean)


@pytest.mark.parametrize("cls", [TextOnly, UnifiedMultimodalTransformer])
def test_a_registered_loss_is_added(fit, cls):
    class Extra(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.extra_losses["squares"] = lambda module, batch, emissions: 3 * emissions.square().mean()

    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    fit(Extra(), Watch(), cls=cls)
    for metrics in seen:
        parts = {name: value for name, value in metrics.items() if name.endswith("_loss")}
        assert parts["train/squares_loss"] > 0
        assert metrics["train/loss"] == pytest.approx(sum(parts.values()), rel=1e-5)


def test_emissions_are_those_of_the_tagging_loss(bert_folder):
    labels = Twitter2017DataModule.labels
    module = TextOnly(labels, text_encoder=bert_folder, dropout=0.5).train()
    batch = {
        "token_ids": torch.randint(5, 40, (2, 6)), "token_mask": torch.ones(2, 6, dtype=torch.bool),
        "segment_ids": torch.zeros(2, 6, dtype=torch.long), "word_starts": torch.tensor([[1, 2, 3], [1, 2, 3]]),
        "word_mask": torch.ones(2, 3, dtype=torch.bool), "tags": torch.zeros(2, 3, dtype=torch.long), "id": ["a", "b"],
    }  # fmt: skip
    given = []
    module.extra_losses["kept"] = lambda module, batch, emissions: given.append(emissions) or emissions.sum()
    parts = module._losses(batch)
    torch.testing.assert_close(parts["tagging"], module.nll(given[0], batch))


def test_rdrop_is_zero_without_dropout_and_positive_with(fit, tmp_path):
    logged = {}
    for dropout in (0.0, 0.5):
        encoder = str(save_small_bert(tmp_path / f"bert{dropout}", dropout))
        module, trainer = fit(RDrop(weight=2.0), encoder=encoder, dropout=dropout, max_epochs=1)
        logged[dropout] = float(trainer.callback_metrics["train/rdrop_loss"])
        assert module.extra_losses == {}, "only for the run"
    assert logged[0.0] == pytest.approx(0.0, abs=1e-6)
    assert logged[0.5] > 1e-3


def test_the_loss_of_rdrop(fit, tmp_path):
    """The mean of both divergences of two given views, times the weight."""
    module, trainer = fit(max_epochs=1)
    batch = next(iter(trainer.datamodule.train_dataloader()))
    crf, mask = module.crf, batch["word_mask"]
    first, second = torch.randn(2, *mask.shape, len(module.labels))
    module.emissions = lambda batch: second
    for weight in (0.0, 3.0):
        there, back = divergence(crf, first, second, mask), divergence(crf, second, first, mask)
        torch.testing.assert_close(RDrop(weight).loss(module, batch, first), weight * (there + back) / 2)


def test_a_run_that_failed_leaves_no_loss_behind(fit):
    seen = []

    class Broken(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            seen.append((pl_module, dict(pl_module.extra_losses)))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(RDrop(), Broken())
    ((module, registered),) = seen
    assert list(registered) == ["rdrop"]
    assert module.extra_losses == {}


def hidden(p, ids, starts, words, segments=None):
    technique = WordDropout(p)
    technique._mask, technique._kept = 99, torch.tensor([1, 2])
    ids = torch.tensor(ids)
    segments = torch.zeros_like(ids) if segments is None else torch.tensor(segments)
    batch = {
        "token_ids": ids, "token_mask": ids > 0, "segment_ids": segments, "word_starts": torch.tensor(starts),
        "word_mask": torch.tensor(words),
    }  # fmt: skip
    return technique.hide(batch).tolist()


def test_words_are_hidden_with_all_their_pieces():
    """[CLS] aa b ccc [SEP] and its context; padding, special pieces and context stay."""
    ids = [[1, 5, 6, 7, 8, 8, 8, 2, 9, 9, 2], [1, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0]]
    starts, words = [[1, 3, 4], [1, 0, 0]], [[True] * 3, [True, False, False]]
    segments = [[0] * 8 + [1] * 3, [0] * 11]
    assert hidden(0.0, ids, starts, words, segments) == ids
    everything = [[1, *[99] * 6, 2, 9, 9, 2], [1, 99, 2, *[0] * 8]]
    assert hidden(1.0, ids, starts, words, segments) == everything
    torch.manual_seed(0)
    seen = {tuple(row) for _ in range(60) for row in hidden(0.5, ids, starts, words, segments)[:1]}
    of_words = [((5, 6), (99, 99)), ((7,), (99,)), ((8, 8, 8), (99, 99, 99))]
    allowed = {(1, *a, *b, *c, 2, 9, 9, 2) for a in of_words[0] for b in of_words[1] for c in of_words[2]}
    assert seen == allowed, "each word whole, or not at all, and each on its own"


def test_words_that_follow_a_window_are_no_pieces_of_its_last():
    """[CLS] aa b | c d [SEP]: the window answers for two words and reads two more."""
    technique = WordDropout(1.0)
    technique._mask, technique._kept = 99, torch.tensor([1, 2])
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 2]])
    batch = {
        "token_ids": ids, "token_mask": ids > 0, "segment_ids": torch.zeros_like(ids),
        "word_starts": torch.tensor([[1, 3]]), "word_ends": torch.tensor([[3, 4]]),
        "word_mask": torch.tensor([[True] * 2]),
    }  # fmt: skip
    assert technique.hide(batch).tolist() == [[1, 99, 99, 99, 8, 9, 2]]


def test_how_many_words_are_hidden():
    torch.manual_seed(0)
    rows = [[1, *range(3, 53), 2]] * 200
    found = torch.tensor(hidden(0.2, rows, [list(range(1, 51))] * 200, [[True] * 50] * 200))
    assert (found == 99).float().sum() / (200 * 50) == pytest.approx(0.2, abs=0.02)


def test_words_are_hidden_in_training_only(fit, bert_folder):
    seen = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.setdefault("train", []).append(batch["token_ids"])

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.setdefault("valid", []).append(batch["token_ids"])

    _, trainer = fit(WordDropout(1.0), Watch(), max_epochs=1)
    tokenizer = trainer.datamodule.post_tokenizer.tokenizer
    kept = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    assert {int(piece) for ids in seen["train"] for piece in ids.unique()} == {*kept, tokenizer.mask_token_id}
    assert all(tokenizer.mask_token_id not in ids for ids in seen["valid"])


class Before(pl.Callback):
    """The text encoder's weights before the first step."""

    def on_train_start(self, trainer, pl_module):
        self.found = {name: value.clone() for name, value in pl_module.text_encoder.model.state_dict().items()}


@pytest.fixture(scope="module")
def same_everywhere(tmp_path_factory):
    """A BERT of two layers whose weights are all .3."""
    folder = save_small_bert(tmp_path_factory.mktemp("layers") / "bert", 0.0, layers=2)
    model = BertModel.from_pretrained(folder)
    for value in model.parameters():
        value.data.fill_(0.3)
    model.save_pretrained(folder)
    return str(folder)


def test_last_layers_begin_anew(fit, same_everywhere):
    """As BERT begins: weights of deviation .02, biases 0, norms 1. Each process has the same; the rest is as loaded."""
    seen = []
    for process in (0, 1):
        before, technique = Before(), ReinitializedLayers(1)
        pl.seed_everything(5, verbose=False)
        torch.rand(1 + process)  # as if another process had drawn other numbers
        fit(technique, before, encoder=same_everywhere, max_epochs=1)
        seen.append(before.found)
    for name, value in seen[0].items():
        assert torch.equal(value, seen[1][name])
        if not name.startswith("encoder.layer.1."):
            assert (value == torch.tensor(0.3)).all() or not value.is_floating_point(), name
        elif name.endswith("bias"):
            assert (value == 0).all()
        elif "LayerNorm" in name:
            assert (value == 1).all()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name


def test_layers_begin_anew_once(fit, same_everywhere, tmp_path):
    """A run that goes on keeps what it learnt, with a new callback too."""
    fit(ReinitializedLayers(2), Halfway(tmp_path / "half.ckpt"), encoder=same_everywhere, max_epochs=2)
    stored = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    for technique in (ReinitializedLayers(2), done := ReinitializedLayers(2)):
        if technique is done:
            done.load_state_dict({"done": True})
        before = Before()
        fit(technique, before, encoder=same_everywhere, max_epochs=3, ckpt_path=tmp_path / "half.ckpt")
        for name, value in before.found.items():
            assert torch.equal(value, stored[f"text_encoder.model.{name}"])
    technique, before = ReinitializedLayers(1), Before()
    technique.load_state_dict({"done": True})
    fit(technique, before, encoder=same_everywhere, max_epochs=1)
    assert (before.found["encoder.layer.1.output.dense.weight"] == torch.tensor(0.3)).all()


def test_no_more_layers_than_there_are(fit, same_everywhere):
    with pytest.raises(ValueError, match="up to 2"):
        fit(ReinitializedLayers(3), encoder=same_everywhere)
    with pytest.raises(ValueError, match="LoRA freezes them"):
        fit(LoRA(rank=2), ReinitializedLayers(1), encoder=same_everywhere)


def test_rates_and_fresh_layers_of_an_encoder_that_cannot_be_run_by_layers(fit, tmp_path):
    folder = save_small_bert(tmp_path / "mpnet")
    sizes = {"vocab_size": 83, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    MPNetModel(MPNetConfig(num_hidden_layers=2, **sizes)).save_pretrained(folder)
    module, trainer = fit(LayerwiseLearningRates(0.5), ReinitializedLayers(1), encoder=str(folder), learning_rate=0.08)
    rates = {id(p): group["initial_lr"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    encoder = module.text_encoder.model
    for rate, part in ((0.08, encoder.encoder.layer[1]), (0.04, encoder.encoder.layer[0]), (0.02, encoder.embeddings)):
        assert {round(rates[id(parameter)], 6) for parameter in part.parameters()} == {rate}


@pytest.mark.parametrize(
    "made",
    [
        lambda: LayerwiseLearningRates(0), lambda: AveragedWeights(1), lambda: RDrop(-1), lambda: WordDropout(1.1),
        lambda: ReinitializedLayers(0),
    ],
)  # fmt: skip
def test_wrong_options(made):
    with pytest.raises(ValueError, match="Expected"):
        made()
