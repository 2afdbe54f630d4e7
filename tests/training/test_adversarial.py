"""Adversarial training against its formula: a quadratic loss by hand, BERT with the table itself moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from mner.data import Twitter2017DataModule
from mner.fusion import TextOnly
from mner.training import AdversarialTraining, LoRA, RDrop
from tests.tiny_sets import QUIET, save_small_bert, write_twitter


@pytest.fixture(scope="module")
def quiet_bert(tmp_path_factory):
    return str(save_small_bert(tmp_path_factory.mktemp("quiet") / "bert", 0.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_twitter(tmp_path_factory.mktemp("adversarial") / "data")


class Table(nn.Module):
    """A text encoder that is a table."""

    def __init__(self, vectors):
        super().__init__()
        self.model = nn.Module()
        self.model.embedding = nn.Embedding.from_pretrained(vectors, freeze=False)
        self.model.get_input_embeddings = lambda: self.model.embedding


class Quadratic(pl.LightningModule):
    """Loss ½ Σ |E[ids] - target|² over the places of a batch."""

    def __init__(self, vectors, rate=0.5):
        super().__init__()
        self.text_encoder, self.rate = Table(vectors), rate
        self.logged = []

    def training_step(self, batch, batch_idx):
        loss = (self.text_encoder.model.embedding(batch["ids"]) - batch["target"]).square().sum() / 2
        self.log("train/loss", loss)
        self.logged.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def batch_of(ids, target):
    return {"id": ["a"], "ids": torch.tensor(ids), "target": torch.tensor(target)}


def both_gradients(vectors, batch, norm):
    """G of the table and the gradient after the step along it, worked out: E_v · count - sum of v's targets."""

    def gradient(table):
        found = torch.zeros_like(table)
        for number, target in zip(batch["ids"].tolist(), batch["target"], strict=True):
            found[number] += table[number] - target
        return found

    first = gradient(vectors)
    return first, gradient(vectors + norm * first / first.norm())


VECTORS = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-1.0, 3.0]])
FIRST = batch_of([0, 2, 0], [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
SECOND = batch_of([1, 2], [[4.0, -3.0], [0.0, 0.0]])


def run(batches, callback, **options):
    module = Quadratic(VECTORS.clone())
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], **QUIET, **options)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    return module, trainer


def test_one_step_by_hand():
    """One word twice: G = (2·1 - 1, 2·2) = (1, 4) for it, (-2, 2) for the other, of length 5."""
    first, second = both_gradients(VECTORS, FIRST, norm=0.5)
    torch.testing.assert_close(first, torch.tensor([[1.0, 4.0], [0.0, 0.0], [-2.0, 2.0]]))
    torch.testing.assert_close(second[0], torch.tensor([1.2, 4.8]))  # 2 (1 + .5/5) - 1, 2 (2 + .5 · 4/5)
    module, trainer = run([FIRST], AdversarialTraining(norm=0.5))
    torch.testing.assert_close(module.text_encoder.model.embedding.weight, VECTORS - 0.5 * (first + second))
    assert len(module.logged) == 2
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(module.logged[0])
    assert float(trainer.callback_metrics["train/adversarial_training_loss"]) == pytest.approx(module.logged[1])
    assert module.logged[1] > module.logged[0]


def test_gradients_are_accumulated():
    """Each batch has a step of its own; halves of both are added."""
    parts = [part for batch in (FIRST, SECOND) for part in both_gradients(VECTORS, batch, norm=1.0)]
    module, trainer = run([FIRST, SECOND], AdversarialTraining(), accumulate_grad_batches=2)
    torch.testing.assert_close(module.text_encoder.model.embedding.weight, VECTORS - 0.5 * sum(parts) / 2)
    assert trainer.global_step == 1


def test_the_second_step_begins_from_new_weights():
    table = VECTORS
    for batch in (FIRST, SECOND):
        table = table - 0.5 * sum(both_gradients(table, batch, norm=1.0))
    module, _ = run([FIRST, SECOND], AdversarialTraining())
    torch.testing.assert_close(module.text_encoder.model.embedding.weight, table)


def test_at_the_minimum_nothing_moves():
    still = batch_of([0, 1], VECTORS[:2].tolist())
    module, _ = run([still], AdversarialTraining())
    torch.testing.assert_close(module.text_encoder.model.embedding.weight, VECTORS)


def moved_table(module, batch, norm):
    """The usual way: change the weights, go back, put them back."""
    module.zero_grad()
    sum(module._losses(batch).values()).backward()
    table = module.text_encoder.model.get_input_embeddings().weight
    step, before = norm * table.grad / table.grad.norm(), table.detach().clone()
    table.data += step
    sum(module._losses(batch).values()).backward()
    table.data = before
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


class Gradients(pl.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.found = {name: value.grad.clone() for name, value in pl_module.named_parameters() if value.requires_grad}


def test_equals_moving_the_table_of_bert(quiet_bert, root):
    """Of every parameter, with R-drop, whose second pass reads the table once more."""
    data = Twitter2017DataModule(str(root), batch_size=6)
    module = TextOnly(data.labels, text_encoder=quiet_bert, dropout=0.0)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    seen, watch = [], Gradients()

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch)

    trainer = pl.Trainer(max_steps=1, callbacks=[Keep(), AdversarialTraining(norm=3.0), RDrop(), watch], **QUIET)
    trainer.fit(module, data)
    module.load_state_dict(state)
    module.train()
    rdrop = RDrop()
    module.extra_losses["rdrop"] = rdrop.loss
    plain = moved_table(module, seen[0], 0.0)
    expected = moved_table(module, seen[0], 3.0)
    assert watch.found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(watch.found[name], gradient, atol=1e-6, rtol=1e-4)
    assert any((gradient - plain[name]).abs().max() > 1e-3 for name, gradient in expected.items()), "the step is seen"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("more", [[], [LoRA(rank=2)]], ids=["full", "LoRA"])
def test_precisions_and_frozen_tables(quiet_bert, root, precision, more):
    module = TextOnly(Twitter2017DataModule.labels, text_encoder=quiet_bert, learning_rate=1e-3)
    trainer = pl.Trainer(max_steps=2, precision=precision, callbacks=[*more, AdversarialTraining()], **QUIET)
    trainer.fit(module, Twitter2017DataModule(str(root), batch_size=3))
    assert trainer.callback_metrics["train/adversarial_training_loss"] > trainer.callback_metrics["train/loss"]
    table = module.text_encoder.model.get_input_embeddings()
    assert not table._forward_hooks, "gone after the run"
    if more:
        assert table.weight.grad is None


def test_words_that_the_first_pass_did_not_read_stay():
    """As where a second pass reads a rare word as unknown."""
    callback = AdversarialTraining()
    callback._step = torch.tensor([2, 5]), torch.tensor([[1.0], [2.0]])
    assert callback._added(torch.tensor([[0, 2, 3], [5, 9, 2]]))[..., 0].tolist() == [[0, 1, 0], [2, 0, 1]]


def test_a_gradient_that_overflowed_moves_nothing():
    callback = AdversarialTraining()
    callback._seen = [(torch.tensor([1, 4]), torch.tensor([[1.0], [float("inf")]]))]
    ids, step = callback._steepest()
    assert ids.tolist() == [1, 4]
    assert step.tolist() == [[0.0], [0.0]]


def test_a_loss_without_words_is_refused():
    class Blind(Quadratic):
        def training_step(self, batch, batch_idx):
            return self.text_encoder.model.embedding.weight.sum()

    trainer = pl.Trainer(max_epochs=1, callbacks=[AdversarialTraining()], **QUIET)
    with pytest.raises(ValueError, match="does not depend on them"):
        trainer.fit(Blind(VECTORS), torch.utils.data.DataLoader([FIRST], batch_size=None))


def test_an_encoder_without_a_table_is_refused():
    module = TextOnly(Twitter2017DataModule.labels)
    module.text_encoder.model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="get_input_embeddings"):
        AdversarialTraining().on_fit_start(None, module)


def test_a_failed_run_leaves_no_hook(quiet_bert, root):
    class Broken(pl.Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("broken")

    module = TextOnly(Twitter2017DataModule.labels, text_encoder=quiet_bert)
    trainer = pl.Trainer(max_steps=2, callbacks=[AdversarialTraining(), Broken()], **QUIET)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(module, Twitter2017DataModule(str(root), batch_size=3))
    assert not module.text_encoder.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_wrong_norm(norm):
    with pytest.raises(ValueError, match="above 0"):
        AdversarialTraining(norm)


TWO = """
import json, sys
import pytorch_lightning as pl, torch
from mner.training import AdversarialTraining
from tests.training.test_adversarial import FIRST, QUIET, SECOND, VECTORS, Quadratic
trainer = pl.Trainer(max_epochs=1, devices=2, strategy="ddp", callbacks=[AdversarialTraining()], **QUIET)
module = Quadratic(VECTORS.clone())
trainer.fit(module, torch.utils.data.DataLoader([FIRST, SECOND], batch_size=None, shuffle=False))
if trainer.global_rank == 0:
    print("TABLE", json.dumps(module.text_encoder.model.embedding.weight.tolist()))
torch.distributed.destroy_process_group()  # `TaggingModule` does so itself
"""


@pytest.mark.slow
def test_two_processes_share_both_gradients(tmp_path):
    """Each moves its own batch; the step is the mean of both processes."""
    (tmp_path / "two.py").write_text(TWO)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "LOCAL_", "NODE_"))}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "two.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("TABLE"))
    parts = [part for batch in (FIRST, SECOND) for part in both_gradients(VECTORS, batch, norm=1.0)]
    torch.testing.assert_close(torch.tensor(json.loads(line[5:])), VECTORS - 0.5 * sum(parts) / 2)
