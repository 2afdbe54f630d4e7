"""Lightning's own Trainer and callbacks from Python, with a data module and with loaders by hand."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks as cb

from mner.data import Twitter2017DataModule
from mner.data.formats.predictions import Prediction
from mner.fusion import FusionModule, TextOnly, VisualAttention
from tests.tiny_sets import WIDTH, save_small_bert, write_twitter

POSTS = 11
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("lightning")
    return str(write_twitter(root / "data", count=POSTS)), str(save_small_bert(root / "bert"))


@pytest.fixture
def made(places):
    """A model and its data; by name of the strategy."""

    def made(cls=TextOnly, **options):
        data = Twitter2017DataModule(
            places[0], batch_size=4, text_encoder=places[1], features="regions" if cls.uses_image else None
        )
        width = {"region_width": WIDTH} if cls.uses_image else {}
        return cls(data.labels, text_encoder=places[1], learning_rate=1e-3, **width, **options), data

    return made


@pytest.fixture
def trainer(tmp_path):
    def trainer(*callbacks, **options):
        options = {"max_epochs": 2, "enable_checkpointing": False, "default_root_dir": tmp_path, **QUIET, **options}
        return pl.Trainer(callbacks=list(callbacks), **options)

    return trainer


@pytest.mark.parametrize("cls", [TextOnly, VisualAttention])
def test_entry_points_with_a_data_module(made, trainer, cls):
    model, data = made(cls)
    trainer().fit(model, data)
    assert "val/f1" in trainer().validate(model, data, verbose=False)[0]
    assert "test/f1" in trainer().test(model, data, verbose=False)[0]
    check_predictions(trainer().predict(model, data))


@pytest.mark.parametrize("cls", [TextOnly, VisualAttention])
def test_entry_points_with_loaders_by_hand(made, trainer, cls):
    model, data = made(cls)
    trainer().fit(model, data.train_dataloader(), data.val_dataloader())
    assert "val/f1" in trainer().validate(model, data.val_dataloader(), verbose=False)[0]
    assert "test/f1" in trainer().test(model, data.test_dataloader(), verbose=False)[0]
    check_predictions(trainer().predict(model, data.predict_dataloader()))


def check_predictions(found):
    posts = [post for batch in found for post in batch]
    assert all(isinstance(post, Prediction) for post in posts)
    assert sorted(post.id for post in posts) == [f"2{row:03d}" for row in range(POSTS)]


class Written(cb.BasePredictionWriter):
    """Keeps what it is given to write."""

    def __init__(self):
        super().__init__("batch_and_epoch")
        self.batches, self.epoch = [], []

    def write_on_batch_end(self, trainer, module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
        self.batches.append(([post.id for post in prediction], batch_indices))

    def write_on_epoch_end(self, trainer, module, predictions, batch_indices):
        self.epoch += [post.id for batch in predictions for post in batch]


def test_a_prediction_writer_knows_the_posts(made, trainer):
    model, data = made()
    writer = Written()
    trainer(writer).predict(model, data)
    assert len(writer.epoch) == POSTS
    for ids, indices in writer.batches:
        assert ids == [data.datasets["test"].examples[index].id for index in indices]


class Freeze(cb.BaseFinetuning):
    """The encoder learns from the second epoch on."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.text_encoder)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.text_encoder, optimizer, lr=1e-3)


CALLBACKS = {
    "EarlyStopping": lambda: cb.EarlyStopping("val/f1", mode="max", patience=1),
    "ModelCheckpoint": lambda: cb.ModelCheckpoint(monitor="val/f1", mode="max", filename="{epoch}-{val/f1:.2f}"),
    "OnExceptionCheckpoint": lambda: cb.OnExceptionCheckpoint("."),
    "WeightAveraging": cb.WeightAveraging,
    "EMAWeightAveraging": lambda: cb.EMAWeightAveraging(decay=0.9),
    "StochasticWeightAveraging": lambda: cb.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1),
    "ModelPruning": lambda: cb.ModelPruning("l1_unstructured", amount=0.5),
    "BaseFinetuning": Freeze,
    "LearningRateMonitor": lambda: cb.LearningRateMonitor("step"),
    "DeviceStatsMonitor": lambda: cb.DeviceStatsMonitor(cpu_stats=False),
    "GradientAccumulationScheduler": lambda: cb.GradientAccumulationScheduler({0: 2, 1: 1}),
    "BatchSizeFinder": lambda: cb.BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=2),
    "Timer": lambda: cb.Timer("00:01:00:00"),
    "ModelSummary": lambda: cb.ModelSummary(max_depth=2),
    "RichModelSummary": cb.RichModelSummary,
    "RichProgressBar": cb.RichProgressBar,
    "TQDMProgressBar": cb.TQDMProgressBar,
    "LambdaCallback": lambda: cb.LambdaCallback(on_train_start=lambda trainer, module: None),
}
ELSEWHERE = {
    "Callback", "Checkpoint", "ProgressBar", "BasePredictionWriter",  # bases; the last is tried above
    "BackboneFinetuning",  # for modules with a `backbone`; see below
    "LearningRateFinder",  # see test_callbacks
    "ThroughputMonitor", "SpikeDetection",  # need facts of the machine, or a package
    "WeightAveraging",
}  # fmt: skip


def test_each_of_lightnings_callbacks_is_tried():
    assert set(cb.__all__) - ELSEWHERE - set(CALLBACKS) == set()


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(made, trainer, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name.startswith("Rich"):
        pytest.importorskip("rich")
    model, data = made(VisualAttention)
    before = model.head.weight.detach().clone()
    kept = {"enable_checkpointing": True} if name.endswith("Checkpoint") else {}
    watched = {"logger": pl.loggers.CSVLogger(tmp_path)} if "Monitor" in name else {}
    if name.endswith(("Bar", "Summary")):
        watched = {"enable_progress_bar": name.endswith("Bar"), "enable_model_summary": name.endswith("Summary")}
    made_trainer = trainer(CALLBACKS[name](), **kept, **watched)
    made_trainer.fit(model, data)
    weights = model.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert not torch.equal(model.head.weight, before)
    path = tmp_path / "kept.ckpt"
    made_trainer.save_checkpoint(path)
    if name != "ModelPruning":  # its masks stay in until the end of training
        assert torch.equal(FusionModule.load_from_checkpoint(path).head.weight, model.head.weight)
    assert made_trainer.validate(model, data, verbose=False)


def test_backbone_finetuning(made, trainer):
    model, data = made()
    model.backbone = model.text_encoder
    callback = cb.BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_lr=1e-4, should_align=False)
    trainer(callback).fit(model, data)
    assert all(parameter.requires_grad for parameter in model.text_encoder.parameters())


def test_the_mean_of_weights_is_their_mean(made, trainer):
    """Lightning's WeightAveraging averages after each step, buffers included; so do we, by hand."""
    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            kept.append(pl_module.head.weight.detach().clone())

    model, data = made()
    trainer(Keep(), cb.WeightAveraging()).fit(model, data)
    assert len(kept) == 6
    torch.testing.assert_close(model.head.weight.detach(), torch.stack(kept).mean(0))
