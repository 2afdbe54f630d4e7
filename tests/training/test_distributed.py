"""Two processes (gloo, on the CPU): training runs, and evaluation counts each post once, whatever their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mner.data.formats.posts import read_posts
from mner.data.formats.predictions import read_predictions
from mner.fusion import FusionModule
from mner.labels import spans
from mner.training import Trainer
from tests.ddp_run import EPOCHS, build
from tests.fusion.test_strategies import STRATEGIES
from tests.tiny_sets import save_small_bert, save_visual_bert, write_twitter

pytestmark = pytest.mark.slow
POSTS = 23  # an odd number on two processes: Lightning's own sampler would score one post twice
# The stored regions here have no sizes of images, without which boxes are not known.
NAMES = [*(cls.__name__ for cls in STRATEGIES if "boxes" not in cls.needs), "VisualBert"]
ROOT = Path(__file__).parents[2]
every = pytest.mark.parametrize("name", NAMES)


def start(folder: Path, *args: str) -> subprocess.CompletedProcess:
    """A command in a process of its own; Lightning starts the second one with the same words."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {key: value for key, value in environment.items() if not key.startswith(("PL_", "LOCAL_", "NODE_"))}
    return subprocess.run(
        [sys.executable, "-m", *args], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder):
    root = tmp_path_factory.mktemp("ddp")
    write_twitter(root / "data", count=POSTS)
    save_small_bert(root / "bert")
    save_visual_bert(root / "visualbert", bert_folder)
    return root


@pytest.fixture(scope="module")
def ranks(folder):
    """By strategy: what each of the two processes said."""
    done = start(folder, "tests.ddp_run", str(folder), *NAMES)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
        for name in NAMES
    }


@pytest.fixture(scope="module")
def alone(folder):
    """The scores and predictions of one process with the same weights."""

    def alone(name):
        before = Path.cwd()
        os.chdir(folder)
        try:
            module, data = FusionModule.load_from_checkpoint(folder / f"{name}.ckpt"), build(name)[1]
            trainer = Trainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False,
            )  # fmt: skip
            trainer.validate(module, datamodule=data)
            scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
            trainer.test(module, datamodule=data)
            scores |= {key: float(value) for key, value in trainer.callback_metrics.items()}
            return scores, trainer.predict(module, datamodule=data, output=str(folder / "alone.jsonl"))
        finally:
            os.chdir(before)

    return alone


@every
def test_each_post_is_evaluated_once(ranks, folder, name):
    for stage, split in (("val", "valid"), ("test", "test")):
        posts = read_posts(folder / "data" / f"{split}.txt")
        seen = Counter(id_ for rank in ranks[name] for id_ in rank["seen"][stage])
        assert seen == Counter(post.id for post in posts)
        assert len(posts) == POSTS
        assert all(rank["seen"][stage] for rank in ranks[name]), "both processes have their part"
        gold = sum(len(spans(post.tags)) for post in posts)
        counted = [rank["gold"][stage] for rank in ranks[name]]
        assert sum(counted) == gold
        assert 0 < counted[0] < gold


QUICK_LEARNERS = ("TextOnly", "Concatenation", "CoAttention", "TransformerAttention", "VisualBert")
"""Find entities after these few steps on every machine; losses and predictions of the others are compared as well."""


@every
def test_scores_equal_those_of_one_process(ranks, alone, folder, name):
    scores, posts = alone(name)
    for rank in ranks[name]:
        for key in (key for key in scores if not key.endswith("loss")):
            assert rank["scores"][key] == pytest.approx(scores[key], abs=1e-6), key
    if name in QUICK_LEARNERS:
        assert scores["val/f1"] > 0, "a model that finds nothing would show nothing"
    written = read_predictions(folder / f"{name}.jsonl").posts
    assert [post.id for post in written] == [post.id for post in posts], "each once, in the order of the file"
    assert [post.pred for post in written] == [post.pred for post in posts]
    assert len(written) == POSTS


@every
def test_training_shares_the_posts_out(ranks, name):
    first, second = (rank["trained"] for rank in ranks[name])
    assert Counter(first + second) == Counter(f"0{row:03d}" for row in range(POSTS) for _ in range(EPOCHS))
    assert abs(len(first) - len(second)) <= 2 * EPOCHS


def test_the_processes_leave_their_group(ranks, folder):
    """Threads of a gloo group that is left to the interpreter's end abort the process now and then."""
    assert [(folder / f"group-{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)] == ["False", "False"]


def test_the_command_line(folder):
    """The second process must get the same arguments as the first."""
    args = [
        "--model=TextOnly", "--model.text_encoder=bert", "--data=Twitter2017DataModule", "--data.root=data",
        "--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp",
        "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--data.features=regions",
    ]  # fmt: skip
    done = start(folder, "mner", "fit", *args)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("Best valid F1") == 1
    assert "sync_dist" not in said, "a warning for each score"
    assert said.count("TextOnly uses no images") == 1, "said by the first process only"
    assert (folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt").is_file()
