"""Techniques that fit any strategy, each against numbers worked out by hand."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mner.data import Twitter2017DataModule
from mner.fusion import FusionModule, TextOnly, UnifiedMultimodalTransformer
from mner.nn import divergence
from mner.training import AveragedWeights, BestByF1, LayerwiseLearningRates, RDrop
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


@pytest.mark.parametrize("made", [lambda: LayerwiseLearningRates(0), lambda: AveragedWeights(1), lambda: RDrop(-1)])
def test_wrong_options(made):
    with pytest.raises(ValueError, match="Expected"):
        made()
