"""Distillation: the divergence by enumeration, posts without labels in their order, and that a model learns."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from mner.data import Twitter2017DataModule
from mner.data.windows import whole_posts
from mner.errors import DataFormatError, MNERError
from mner.fusion import FusionModule, TextOnly
from mner.tagger.ensemble import ensemble
from mner.training import AdversarialTraining, Distillation
from mner.training.teacher import Answers, Teacher
from tests.conftest import write_posts
from tests.tiny_sets import QUIET, posts_of, save_small_bert, write_twitter


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data, an encoder, a checkpoint of two steps, and its ensemble with another one."""
    folder = tmp_path_factory.mktemp("distillation")
    root, bert = write_twitter(folder / "data"), str(save_small_bert(folder / "bert", 0.0))
    paths = []
    for seed in range(2):
        pl.seed_everything(seed, verbose=False)
        data = Twitter2017DataModule(str(root), batch_size=3)
        module = TextOnly(data.labels, text_encoder=bert, learning_rate=1e-2)
        trainer = pl.Trainer(max_steps=4, limit_val_batches=0, **QUIET)
        trainer.fit(module, data)
        paths.append(str(folder / f"{seed}.ckpt"))
        trainer.save_checkpoint(paths[-1])
    ensemble(paths, str(folder / "both.ckpt"))
    write_posts(folder / "other.txt", posts_of("test", 5, "UNKNOWN"))
    return root, bert, paths[0], str(folder / "both.ckpt"), str(folder / "other.txt")


def fit(places, technique, *more, ckpt_path=None, steps=3, **options):
    root, bert, *_ = places
    pl.seed_everything(9, verbose=False)
    data = Twitter2017DataModule(str(root), batch_size=3)
    module = TextOnly(data.labels, text_encoder=bert, dropout=0.0, learning_rate=1e-2)
    trainer = pl.Trainer(max_steps=steps, limit_val_batches=0, callbacks=[technique, *more], **QUIET, **options)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


def distributions(crf, emissions):
    """Of the labels of each word of one post (w, l), all sequences considered."""
    words, labels = emissions.shape
    paths = torch.tensor(list(product(range(labels), repeat=words)))
    worth = crf(emissions.expand(len(paths), -1, -1), paths, reduction="none").softmax(0)
    found = torch.zeros(words, labels, dtype=worth.dtype)
    return torch.stack([found[t].index_add(0, paths[:, t], worth) for t in range(words)])


def test_the_divergence_by_enumeration(places):
    """Two posts of two and three words; the gradient too."""
    student = TextOnly(FusionModule.load_from_checkpoint(places[2]).labels, text_encoder=places[1]).double()
    technique = Distillation(places[2], weight=0.5)
    technique.teacher = Teacher(places[2], student.labels, None)
    teacher = technique.teacher.model.double()
    generator = torch.Generator().manual_seed(0)
    mine, theirs = torch.randn(2, 2, 3, len(teacher.labels), generator=generator, dtype=torch.float64)
    mine.requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    teacher.emissions = lambda batch: theirs
    found = technique.loss(student, {"word_mask": mask}, mine)
    expected = 0.0
    for row, words in enumerate((2, 3)):
        q, p = distributions(teacher.crf, theirs[row, :words]), distributions(student.crf, mine[row, :words])
        expected = expected + (q * (q.log() - p.log())).sum()
    expected = 0.5 * expected / 5
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, mine, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, mine)
    torch.testing.assert_close(gradient, wanted, atol=1e-7, rtol=1e-4)


def test_a_teacher_teaches_nothing_to_itself(places):
    model = FusionModule.load_from_checkpoint(places[2])
    technique = Distillation(places[2])
    technique.teacher = Teacher(places[2], model.labels, None)
    emissions = torch.randn(1, 4, len(model.labels))
    technique.teacher.model.emissions = lambda batch: emissions
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert technique.loss(model, {"word_mask": mask}, emissions).item() == pytest.approx(0.0, abs=1e-6)


def test_only_posts_that_the_teacher_is_sure_of(places):
    """A post counts whole or not at all."""
    model = FusionModule.load_from_checkpoint(places[2])
    sure, unsure = torch.zeros(2, 2, len(model.labels))
    sure[:, 0] = unsure[0, 0] = 40.0
    technique = Distillation(places[2], confidence=0.9)
    technique.teacher = Teacher(places[2], model.labels, None)
    teacher = technique.teacher.model
    teacher.emissions = lambda batch: torch.stack([sure, unsure])
    mine, mask = torch.randn(2, 2, len(model.labels)), torch.ones(2, 2, dtype=torch.bool)
    both = technique._divergence(model, {"word_mask": mask}, mine, 0.9)
    teacher.emissions = lambda batch: sure[None]
    alone = technique._divergence(model, {"word_mask": mask[:1]}, mine[:1], 0.0)
    torch.testing.assert_close(both, alone)
    teacher.emissions = lambda batch: unsure[None]
    assert technique._divergence(model, {"word_mask": mask[:1]}, mine[1:], 0.9) == 0


@pytest.mark.parametrize("teacher", [2, 3], ids=["one", "ensemble"])
def test_a_model_comes_nearer_to_its_teacher(places, teacher):
    losses = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            losses.append(float(trainer.callback_metrics["train/distillation_loss"]))

    module, _ = fit(places, Distillation(places[teacher], weight=5.0), Watch(), steps=30)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert module.extra_losses == {}


def test_posts_without_labels_are_read_in_turn(places):
    """Five posts, two a step: each once in a pass, whatever else passes; labels in the file are not looked at."""
    technique = Distillation(places[2], posts=places[4], batch_size=2, confidence=0.0)
    read = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            read.extend(technique._next(technique._turn)["id"])
            assert "tags" not in technique._next(technique._turn)

    fit(places, technique, Watch(), AdversarialTraining(), steps=5)
    assert len(read) == 10
    assert len(set(read[:5])) == len(set(read[5:])) == 5
    assert technique.state_dict() == {"batches": 5}


def test_a_run_that_goes_on_reads_what_it_would_have_read(places, tmp_path):
    whole = fit(places, Distillation(places[2], posts=places[4], batch_size=2), steps=4)[0]

    class Half(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    fit(places, Distillation(places[2], posts=places[4], batch_size=2), Half(), steps=4)
    again = fit(
        places, Distillation(places[2], posts=places[4], batch_size=2), ckpt_path=tmp_path / "half.ckpt", steps=4
    )[0]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_wrong_teachers_and_options(places, tmp_path):
    for wrong in ({"weight": -1}, {"confidence": 2}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="Expected"):
            Distillation("x", **wrong)
    _, bert, teacher, *_ = places
    other = TextOnly(["O", "B-X", "I-X"], text_encoder=bert)
    with pytest.raises(MNERError, match="for the labels"):
        Distillation(teacher).on_fit_start(None, other)
    content = torch.load(teacher, weights_only=True)
    content["mner"]["data"] |= {"tokenizer": {"tokenizer.json": "{}"}, "context": ["captions"]}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(MNERError, match=r"another tokeniser, and with context beside"):
        fit(places, Distillation(str(tmp_path / "other.ckpt")))


@pytest.fixture(scope="module")
def larger(places, tmp_path_factory):
    """A teacher with word pieces of its own, and few places, so that it reads the longer posts in windows."""
    folder = tmp_path_factory.mktemp("larger")
    bert = save_other_bert(folder / "bert")
    pl.seed_everything(5, verbose=False)
    data = Twitter2017DataModule(str(places[0]), batch_size=3, text_encoder=str(bert), max_length=6)
    module = TextOnly(data.labels, text_encoder=str(bert), learning_rate=1e-2)
    trainer = pl.Trainer(max_steps=8, limit_val_batches=0, **QUIET)
    trainer.fit(module, data)
    path = str(folder / "larger.ckpt")
    trainer.save_checkpoint(path)
    return path


def save_other_bert(folder):
    """That of `save_small_bert`, which counts its pieces the other way round."""
    save_small_bert(folder, 0.0)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    others = [piece for piece, id_ in known.items() if piece not in special and id_ < 83]  # those of the encoder
    known |= {piece: known[other] for piece, other in zip(others, reversed(others), strict=True)}
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_teacher_with_pieces_of_its_own_reads_the_words(places, larger):
    """It says of each post what its model says in evaluation, long posts in windows, and reads each once."""
    root, bert, *_ = places
    data = Twitter2017DataModule(str(root), batch_size=4, text_encoder=bert)
    files = data.describe()["tokenizer"]
    teacher = Teacher(larger, data.labels, files)
    assert teacher.reads_words
    assert not Teacher(places[2], data.labels, files).reads_words
    model = FusionModule.load_from_checkpoint(larger)
    own = Twitter2017DataModule(str(root), batch_size=1, text_encoder=model.hparams["text_encoder"], max_length=6)
    assert any("windows" in batch for batch in own.val_dataloader()), "no post is long enough"
    wanted = {}
    with torch.no_grad():
        for batch in own.val_dataloader():
            scores, whole = whole_posts(model.emissions(batch), batch)
            wanted[whole["id"][0]] = model.crf.marginals(scores, whole["word_mask"], constrained=False)[0]
    read = []
    emissions = teacher.model.emissions
    teacher.model.emissions = lambda batch: read.append(len(batch["words"])) or emissions(batch)
    for _ in range(2):
        for batch in data.val_dataloader():
            said = teacher(batch)
            assert said.shape[:2] == batch["word_mask"].shape
            for id_, words, row in zip(batch["id"], batch["words"], said, strict=True):
                torch.testing.assert_close(row[: len(words)].float(), wanted[id_], atol=1e-5, rtol=1e-4)
    assert len(read) == len(list(data.val_dataloader()))


def test_it_forgets_the_oldest(places, larger, monkeypatch):
    data = Twitter2017DataModule(str(places[0]), batch_size=2, text_encoder=places[1])
    teacher = Teacher(larger, data.labels, data.describe()["tokenizer"])
    monkeypatch.setattr("mner.training.teacher.KEPT", 3)
    for batch in data.val_dataloader():
        teacher(batch)
    assert list(teacher.answers.said)[-2:] == list(batch["words"])[-2:]
    assert len(teacher.answers.said) == 3


@pytest.mark.parametrize("name", ["larger", "same pieces"])
def test_its_answers_are_kept_for_the_next_run(places, larger, tmp_path, monkeypatch, name):
    """Another run with the file learns the same to the last digit and asks nothing; each epoch adds what is new."""
    teacher, file = larger if name == "larger" else places[2], tmp_path / "kept" / "answers"
    asked = []
    read = Teacher._read
    monkeypatch.setattr(Teacher, "_read", lambda self, posts: asked.extend(posts) or read(self, posts))

    def weights(answers, steps=5):
        asked.clear()
        technique = Distillation(teacher, posts=places[4], batch_size=2, answers=answers and str(answers))
        return fit(places, technique, steps=steps)[0].state_dict()

    without = weights(None) if name == "larger" else None
    first = weights(file, steps=1)
    kept = set(Answers(file).said)
    assert set(asked) == kept
    first = weights(file)
    assert asked
    assert not set(asked) & kept
    again = weights(file)
    assert not asked
    for other in (again, without or again):
        assert all(torch.equal(first[key], other[key]) for key in first)
    assert [path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")] == ["answers"]


def test_answers_of_two_runs_at_once_are_all_kept(tmp_path):
    first, second = (Answers(tmp_path / "answers", teacher="a") for _ in range(2))
    first.said["x", "y"], second.said["z",] = torch.ones(2, 3), torch.zeros(1, 3)
    first.save()
    second.save()
    assert {words: len(said) for words, said in Answers(tmp_path / "answers", teacher="a").said.items()} == {
        ("x", "y"): 2, ("z",): 1,
    }  # fmt: skip


def test_answers_of_another_teacher_are_refused(places, larger, tmp_path):
    file = str(tmp_path / "answers")
    fit(places, Distillation(larger, answers=file), steps=1)
    before = Path(file).read_bytes()
    with pytest.raises(MNERError, match=r"holds answers with teacher [0-9a-f]+, and this run's is .*name another file"):
        fit(places, Distillation(places[2], answers=file))
    with pytest.raises(MNERError, match="holds answers with precision 32-true, and this run's is bf16-mixed"):
        fit(places, Distillation(larger, answers=file), precision="bf16-mixed")
    assert Path(file).read_bytes() == before
    for content in (b"something else", b""):
        Path(file).write_bytes(content)
        with pytest.raises(DataFormatError, match="no teacher's answers"):
            fit(places, Distillation(larger, answers=file))
        assert Path(file).read_bytes() == content
    save_file({"x": torch.ones(1)}, file)
    with pytest.raises(DataFormatError, match="no teacher's answers"):
        fit(places, Distillation(larger, answers=file))


def test_a_model_comes_nearer_to_a_teacher_with_other_pieces(places, larger):
    losses = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            losses.append(float(trainer.callback_metrics["train/distillation_loss"]))

    fit(places, Distillation(larger, weight=5.0, posts=places[4], batch_size=2), Watch(), steps=30)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
