"""Every technique of training with every strategy, and the techniques with each other: a few steps of each."""

from __future__ import annotations

import warnings
from itertools import combinations

import pytest
import pytorch_lightning as pl
import torch

from mner.data import SampleDataModule
from mner.fusion import CorrelationFusion, VisualPrefix
from mner.training import (
    AdversarialTraining,
    AveragedWeights,
    ConfidencePenalty,
    FocalLoss,
    LabelSmoothing,
    LayerwiseLearningRates,
    LoRA,
    RDrop,
    ReinitializedLayers,
    ScalarMix,
    Trainer,
    WordBiLSTM,
    WordCharacters,
    WordDropout,
    WordPieceMean,
)
from tests.fusion.test_strategies import STRATEGIES

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TECHNIQUES = {
    "layer-wise rates": lambda: LayerwiseLearningRates(decay=0.5),
    "averages": lambda: AveragedWeights(decay=0.5),
    "R-drop": lambda: RDrop(weight=1.0),
    "adversarial": lambda: AdversarialTraining(norm=1.0),
    "word dropout": lambda: WordDropout(p=0.3),
    "fresh layers": lambda: ReinitializedLayers(layers=1),
    "LoRA": lambda: LoRA(rank=2),
    "layer mix": lambda: ScalarMix(),
    "BiLSTM": lambda: WordBiLSTM(hidden=4),
    "piece means": lambda: WordPieceMean(),
    "characters": lambda: WordCharacters(width=4),
    "smoothing": lambda: LabelSmoothing(epsilon=0.1),
    "confidence": lambda: ConfidencePenalty(weight=0.1),
    "focal": lambda: FocalLoss(gamma=2.0),
}
PARTS = {"layer mix": "mix", "BiLSTM": "reader", "piece means": "pieces", "characters": "characters"}
LOSSES = ("smoothing", "confidence", "focal")
REFUSED = {
    ("R-drop", "RetrievalExperts"): "decodes a mixture of label distributions",
    ("adversarial", "CharacterImage"): "does not depend on them",
    **{(loss, "RetrievalExperts"): "decodes a mixture of label distributions" for loss in LOSSES},
    **{(part, "CharacterImage"): "reads no words" for part in ("BiLSTM", "piece means", "characters")},
    **{("layer mix", name): "in its own way" for name in (
        "CharacterImage", "CorrelationFusion", "RelationPropagation", "TransformerAttention", "TwoStream",
    )},
}  # fmt: skip
TOGETHER = (
    ("layer-wise rates", "R-drop", "word dropout", "fresh layers", "smoothing"),
    ("averages", "adversarial", "LoRA", "BiLSTM", "confidence"),
    ("layer mix", "piece means", "characters", "focal"),
)
"""Several at once, since each strategy is trained with each."""


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
    assert ("train/adversarial_training_loss" in watch.logged) == ("adversarial" in names)
    learns = any(value.requires_grad for value in model.text_encoder.parameters())  # all but CharacterImage's
    assert {f"train/{name}_loss" for name in LOSSES if name in names} <= watch.logged
    assert set(model.text_encoder.parts) == {part for name, part in PARTS.items() if name in names}
    assert (len(watch.rates) > 1) == ("layer-wise rates" in names and learns)
    assert (model.text_encoder.adapters is not None) == ("LoRA" in names)
    batch = next(iter(data.val_dataloader()))
    assert [len(path) for path in model.eval()(batch)] == [len(words) for words in batch["words"]]


@pytest.mark.slow
@pytest.mark.parametrize("techniques", TOGETHER, ids=" and ".join)
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_each_technique_trains_each_strategy(cls, techniques, root):
    names = [name for name in techniques if (name, cls.__name__) not in REFUSED]
    check(*trained(cls, names, root), names)


@pytest.mark.parametrize(("technique", "strategy"), REFUSED)
def test_what_makes_no_sense_is_refused(technique, strategy, root):
    (cls,) = (cls for cls in STRATEGIES if cls.__name__ == strategy)
    with pytest.raises(ValueError, match=REFUSED[technique, strategy]):
        trained(cls, [technique], root)


def test_each_technique_is_tried():
    assert sorted(name for names in TOGETHER for name in names) == sorted(TECHNIQUES)


@pytest.mark.parametrize("pair", list(combinations(TECHNIQUES, 2)), ids=" and ".join)
def test_techniques_combine(pair, root):
    if pair == ("fresh layers", "LoRA"):
        with pytest.raises(ValueError, match="LoRA freezes them"):
            trained(VisualPrefix, pair, root)
        return
    check(*trained(VisualPrefix, pair, root), pair)


@pytest.mark.parametrize("left_out", ["fresh layers", "LoRA"])
def test_all_of_them_at_once(root, left_out):
    names = [name for name in TECHNIQUES if name not in (left_out, "layer mix")]  # it runs the layers itself
    check(*trained(CorrelationFusion, names, root), names)
