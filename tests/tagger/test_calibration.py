"""Temperatures against closed forms, ECE against torchmetrics, and entities that stay what they were."""

import json
import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torchmetrics.functional.classification import binary_calibration_error

from mner.analysis import errors
from mner.analysis.report_sections import mistakes
from mner.cli import main
from mner.data import Twitter2017DataModule
from mner.data.formats.predictions import Prediction, Predictions, ScoredSpan, read_predictions
from mner.errors import CheckpointError, DataFormatError, MNERError
from mner.fusion import FusionModule, TextOnly
from mner.labels import Span, spans
from mner.nn import CRF
from mner.tagger.calibration import best_temperature, calibrate, expected_calibration_error, fit_temperature
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from mner.training import Trainer
from mner.training.checkpoint import read_checkpoint
from tests.tagging import save_checkpoint

LABELS = ["O", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return save_checkpoint(tmp_path_factory.mktemp("cal") / "text.ckpt", TextOnly, posts_folder, bert_folder)


@pytest.fixture(scope="module")
def valid(tmp_path_factory, posts_folder, checkpoint):
    """Posts, of which every second one has the model's own entities as gold and the others have none."""
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu")
    texts = [f"{one} {two} {three}" for one, two, three in product(("Anna", "Bo"), ("visits", "of"), ("Lagos", "Jo !"))]
    rows = []
    for number, text in enumerate(texts * 3):
        tagged = tagger(words=text.split())
        tags = list(tagged.tags) if number % 2 else ["O"] * len(tagged.tags)
        rows.append(json.dumps({"id": str(number), "tokens": text.split(), "label": tags}) + "\n")
    path = tmp_path_factory.mktemp("valid") / "valid.jsonl"
    path.write_text("".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_span_probabilities_are_those_of_scaled_paths(temperature):
    torch.manual_seed(0)
    crf = CRF(3, batch_first=True, labels=LABELS).double()
    emissions = 3 * torch.randn(1, 3, 3, dtype=torch.float64)
    weights = {}
    for path in product(range(3), repeat=3):
        tags = [LABELS[index] for index in path]
        if spans(tags) != spans(tags, "strict"):
            continue
        with torch.no_grad():
            score = crf.start_transitions[path[0]] + crf.end_transitions[path[2]]
            score = score + sum(emissions[0, word, label] for word, label in enumerate(path))
            score = score + sum(crf.transitions[a, b] for a, b in pairwise(path))
        weights[path] = math.exp(float(score) / temperature)
    for span in (Span(0, 1, "PER"), Span(0, 2, "PER"), Span(1, 3, "PER")):
        inside = sum(w for path, w in weights.items() if span in spans([LABELS[index] for index in path]))
        expected = inside / sum(weights.values())
        assert crf.span_probabilities(emissions, None, [[span]], temperature)[0][0] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="`temperature` to be above 0"):
        crf.span_probabilities(emissions, None, [[]], 0.0)


def test_the_temperature_by_hand():
    """Each of n posts has one word with margin m: p_T = sigmoid(m / T), least where it is the share k/n: m / logit."""
    crf = CRF(3, batch_first=True, labels=LABELS)
    torch.nn.init.zeros_(crf.start_transitions)
    torch.nn.init.zeros_(crf.end_transitions)
    margin, right = 4.0, [True] * 7 + [False] * 3
    emissions = torch.tensor([[[0.0, margin, 0.0]]]).expand(10, 1, 3)

    def scores_at(temperature):
        found = crf.span_probabilities(emissions, None, [[Span(0, 1, "PER")]] * 10, temperature)
        return [score for (score,) in found]

    found = best_temperature(scores_at, right)
    assert found == pytest.approx(margin / math.log(0.7 / 0.3), rel=2e-3)
    assert scores_at(found) == pytest.approx([0.7] * 10, abs=1e-3)
    assert expected_calibration_error(scores_at(1.0), right) == pytest.approx(1 / (1 + math.exp(-margin)) - 0.7)
    assert expected_calibration_error(scores_at(found), right) == pytest.approx(0, abs=1e-3)
    with pytest.raises(MNERError, match="10 entities, of which 10 are right"):
        best_temperature(scores_at, [True] * 10)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_error_as_torchmetrics_has_it(bins):
    generator = np.random.default_rng(bins)
    scores, right = generator.random(500), generator.random(500) < 0.6
    reference = binary_calibration_error(torch.tensor(scores), torch.tensor(right).int(), n_bins=bins, norm="l1")
    assert expected_calibration_error(scores, right, bins) == pytest.approx(float(reference), abs=1e-6)
    with pytest.raises(ValueError, match="but got 0 and 0"):
        expected_calibration_error([], [])


def test_fitted_on_posts(checkpoint, valid):
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", batch_size=5)
    rows = [json.loads(line) for line in valid.read_text(encoding="utf-8").splitlines()]
    posts, gold = [Post(words=row["tokens"]) for row in rows], [spans(row["label"]) for row in rows]
    before = tagger(posts)

    def log_loss(temperature):
        tagger.model.restored["calibration"] = {"": {"temperature": temperature}}
        pairs = [(e, known) for tagged, known in zip(tagger(posts), gold, strict=True) for e in tagged]
        right = [Span(e.word_start, e.word_end, e.type) in known for e, known in pairs]
        p = np.clip([e.score for e, _ in pairs], 1e-6, 1 - 1e-6)
        return float(-np.where(right, np.log(p), np.log(1 - p)).mean())

    facts = fit_temperature(tagger, posts, gold)
    best = facts["temperature"]
    assert facts["posts"] == len(posts)
    assert facts["entities"] == sum(map(len, before)) > 10
    assert log_loss(best) < min(log_loss(best * 1.1), log_loss(best / 1.1))
    fit_temperature(tagger, posts, gold)
    after = tagger(posts)
    assert [tagged.tags for tagged in after] == [tagged.tags for tagged in before]
    assert [e.score for tagged in after for e in tagged] != [e.score for tagged in before for e in tagged]


def test_a_text_of_several_sections(checkpoint, valid, monkeypatch):
    """Entities of the second part are held against gold where they are in the whole."""
    monkeypatch.setattr("mner.tagger.results.SECTION", 4)
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu")
    words = ["Anna", "visits", "Old", "Town"] * 3
    found = [Span(e.word_start, e.word_end, e.type) for e in tagger(words=words)]
    assert max(one.start for one in found) > 4
    monkeypatch.setattr("mner.tagger.calibration.best_temperature", lambda scores_at, right: sum(right))
    facts = fit_temperature(tagger, [Post(words=words)], [found])
    assert facts["temperature"] == facts["entities"] == len(found)


def test_the_command(tmp_path, checkpoint, valid, posts_folder, bert_folder, capsys):
    out = tmp_path / "calibrated.ckpt"
    assert main(["calibrate", str(checkpoint), str(valid), "--output", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "24 posts" in said
    assert "% before" in said
    facts = read_checkpoint(out)["mner"]["calibration"][""]
    assert facts["fitted_on"] == "valid.jsonl"
    assert facts["temperature"] != 1
    old, new = read_checkpoint(checkpoint), read_checkpoint(out)
    assert all(torch.equal(new["state_dict"][name], value) for name, value in old["state_dict"].items())
    plain, tagger = (Tagger.from_checkpoint(path, device="cpu") for path in (checkpoint, out))
    (before,), (after,) = plain(["Anna visits Old Town"]), tagger(["Anna visits Old Town"])
    assert [(e.start, e.end, e.type) for e in before] == [(e.start, e.end, e.type) for e in after]
    assert [e.score for e in before] != [e.score for e in after]

    # A shared model keeps it, and its card tells of it.
    folder = tagger.save_pretrained(tmp_path / "shared")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| temperature, fitted on valid.jsonl | {facts['temperature']:.3f} |" in card
    assert f"there, after | {100 * facts['after']:.2f} % |" in card
    assert [e.score for e in Tagger.from_pretrained(folder, device="cpu")("Anna visits Old Town")] == [
        e.score for e in after
    ]
    assert calibrate(str(folder), str(valid), tmp_path / "again", device="cpu") == 0
    again = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert again["calibration"][""]["after"] == facts["after"]

    # Predictions have calibrated scores and say so.
    data = Twitter2017DataModule(str(posts_folder), text_encoder=bert_folder)
    predictions = tmp_path / "predictions.jsonl"
    Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).predict(
        FusionModule.load_from_checkpoint(out), datamodule=data, output=str(predictions), split="test"
    )
    read = read_predictions(predictions)
    assert read.header["calibration"] == facts
    tagged = tagger([Post(words=post.words) for post in read.posts])
    ours = [e.score for one in tagged for e in one]
    assert [e.score for post in read.posts for e in post.entities] == pytest.approx(ours, abs=1e-5)
    assert any(f"temperature {facts['temperature']}" in text for text in mistakes({"a": [read]}, "lenient").text)

    # What is trained on has no temperature any more.
    model = FusionModule.load_from_checkpoint(out)
    kept = {}
    model.on_save_checkpoint(kept)
    assert "calibration" in kept["mner"]
    written = []

    class Writes(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            written.append({})
            module.on_save_checkpoint(written[-1])

    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, max_steps=1, limit_val_batches=0,
                      enable_checkpointing=False, callbacks=[Writes()])  # fmt: skip
    trainer.fit(model, datamodule=data)
    assert "calibration" not in written[0]["mner"]


def test_refusals(tmp_path, checkpoint, valid):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"id": "1", "text": "Anna"}\n', encoding="utf-8")
    with pytest.raises(DataFormatError, match="posts without gold"):
        calibrate(str(checkpoint), str(bare), tmp_path / "out.ckpt")
    with pytest.raises(MNERError, match="input"):
        calibrate(str(checkpoint), str(valid), checkpoint)
    content = read_checkpoint(checkpoint)
    for wrong in ({"": {"temperature": 0.0}}, {"": {"temperature": "1"}}, {"": 1.0}, [1.0]):
        content["mner"]["calibration"] = wrong
        torch.save(content, tmp_path / "damaged.ckpt")
        with pytest.raises(CheckpointError, match="changed or damaged"):
            read_checkpoint(tmp_path / "damaged.ckpt")


def test_the_report_has_one_definition():
    tags, gold = ("B-PER", "B-LOC", "O"), ("B-PER", "O", "O")
    found = (ScoredSpan(0, 1, "PER", 0.8), ScoredSpan(1, 2, "LOC", 0.7))
    posts = Predictions({}, [Prediction("1", None, ("a", "b", "c"), gold, tags, found)])
    assert errors(posts).calibration_error == expected_calibration_error([0.8, 0.7], [True, False])


def test_min_score(tmp_path, checkpoint, capsys):
    every = Tagger.from_checkpoint(checkpoint, device="cpu")("Anna visits Old Town in Lagos")
    scores = sorted(entity.score for entity in every)
    least = (scores[0] + scores[-1]) / 2
    some = Tagger.from_checkpoint(checkpoint, device="cpu", min_score=least)("Anna visits Old Town in Lagos")
    assert list(some) == [entity for entity in every if entity.score >= least]
    assert list(some.left_out) == [entity for entity in every if entity.score < least]
    assert some
    assert some.left_out
    assert [(s.start, s.end, s.type) for s in spans(some.tags)] == [(e.word_start, e.word_end, e.type) for e in some]
    with pytest.raises(ValueError, match="`min_score` to be from 0 to 1, but got 2"):
        Tagger.from_checkpoint(checkpoint, device="cpu", min_score=2)
    posts, out = tmp_path / "posts.jsonl", tmp_path / "out.jsonl"
    posts.write_text('{"text": "Anna visits Old Town in Lagos"}\n', encoding="utf-8")
    options = ["--checkpoint", str(checkpoint), "--output", str(out), "--device", "cpu"]
    assert main(["tag", str(posts), *options, "--min_score", str(least)]) == 0
    assert f"{len(some.left_out)} entities were left out" in capsys.readouterr().err
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["tags"] == list(some.tags)
    assert len(record["entities"]) == len(some)
