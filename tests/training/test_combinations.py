"""Every technique of training with every strategy, and the techniques with each other: a few steps of each."""

from __future__ import annotations

import warnings
from itertools import combinations

import pytest
import pytorch_lightning as pl
import torch

from mner.data import SampleDataModule
from mner.fusion import CorrelationFusion, VisualPrefix
from mner.training import AveragedWeights, LayerwiseLearningRates, LoRA, RDrop, Trainer
from tests.fusion.test_strategies import STRATEGIES

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TECHNIQUES = {
    "layer-wise rates": lambda: LayerwiseLearningRates(decay=0.5),
    "averages": lambda: AveragedWeights(decay=0.5),
    "R-drop": lambda: RDrop(weight=1.0),
    "LoRA": lambda: LoRA(rank=2),
}
REFUSED = {("R-drop", "RetrievalExperts"): "decodes a mixture of label distributions"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("combinations") / "sample"
    SampleDataModule(str(root), train=16).prepare_data()
    return str(root)


class Watch(pl.Callback):
    """What the techniques leave to be seen at the end of training."""

    def on_train_end(self, trainer, pl_module):
        self.rates = {group["initial_lr"] for group in trainer.optimizers[0].param_groups}
        self.logged = set(trainer.callback_metrics)


def trained(cls, names, root):
    """A strategy after three steps with these techniques, what it was before, and what was seen."""
    pl.seed_everything(0, verbose=False)
    kinds = {"features": "objects"} if cls.uses_image else {}
    data = SampleDataModule(root, train=16, batch_size=4, context=["captions.jsonl", "tags.jsonl"], **kinds)
    width = {"region_width": data.region_width} if cls.uses_image else {}
    model = cls(data.labels, learning_rate=1e-2, **width)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    watch = Watch()
    callbacks = [*(TECHNIQUES[name]() for name in names), watch]
    trainer = Trainer(max_steps=3, limit_val_batches=1, enable_checkpointing=False, callbacks=callbacks, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
    return model, before, watch, trainer, data


def check(model, before, watch, trainer, data, names):
    assert trainer.global_step == 3
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
    assert not torch.equal(model.state_dict()["head.weight"], before["head.weight"])
    assert ("train/rdrop_loss" in watch.logged) == ("R-drop" in names)
    learns = any(value.requires_grad for value in model.text_encoder.parameters())  # all but CharacterImage's
    assert (len(watch.rates) > 1) == ("layer-wise rates" in names and learns)
    assert (model.text_encoder.adapters is not None) == ("LoRA" in names)
    batch = next(iter(data.val_dataloader()))
    assert [len(path) for path in model.eval()(batch)] == [len(words) for words in batch["words"]]


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_each_technique_trains_each_strategy(cls, technique, root):
    if refused := REFUSED.get((technique, cls.__name__)):
        with pytest.raises(ValueError, match=refused):
            trained(cls, [technique], root)
        return
    check(*trained(cls, [technique], root), [technique])


@pytest.mark.parametrize("pair", combinations(TECHNIQUES, 2), ids=" and ".join)
def test_techniques_combine(pair, root):
    check(*trained(VisualPrefix, pair, root), pair)


def test_all_of_them_at_once(root):
    check(*trained(CorrelationFusion, list(TECHNIQUES), root), list(TECHNIQUES))
