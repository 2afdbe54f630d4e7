"""Searches: on functions whose best is known, and on trainings that are cut short."""

from __future__ import annotations

import csv
import json
import re

import pytest
import yaml

from mner.benchmark.plan import BenchmarkError
from mner.benchmark.search import Attempt, optimise
from mner.benchmark.search_report import importances, plot_search, trials_table
from mner.benchmark.space import Range
from mner.cli.evaluation import search_command
from mner.cli.main import main
from mner.errors import BusyError, DataFormatError
from mner.fusion import FusionModule

pytest.importorskip("optuna")
CONFIG = """
model: {class_path: TextOnly, init_args: {text_encoder: tiny, learning_rate: 0.002}}
data: {class_path: SampleDataModule, init_args: {train: 30, batch_size: 16}}
trainer: {max_epochs: 2, accelerator: cpu}
"""
SPACE = "{model.learning_rate: 'log(1e-4, 1e-2)'}"
TWO = {"x": Range("uniform", -1, 1), "y": Range("choice", values=("a", "b"))}


def score(attempt: Attempt) -> float:
    """The best is at x = 0.5; y does nothing."""
    return -((attempt.options["x"] - 0.5) ** 2)


def summary(study):
    return [(trial.state.name, trial.value, trial.params) for trial in study.get_trials(deepcopy=False)]


def test_finds_the_best_and_what_mattered(tmp_path):
    study = optimise(tmp_path, TWO, score, {}, trials=25)
    assert abs(study.best_params["x"] - 0.5) < 0.1
    found = importances(study)
    assert found["x"] > 0.7
    assert sum(found.values()) == pytest.approx(1)
    table = trials_table(study)
    assert len(table) == 25
    assert {"state", "f1", "x", "y"} <= set(table.columns)
    assert len([axes for axes in plot_search(study, TWO, found).axes if axes.get_visible()]) == 3
    assert importances(optimise(tmp_path / "few", TWO, score, {}, trials=3)) is None


def test_killed_anywhere_it_ends_the_same(tmp_path):
    whole = optimise(tmp_path / "whole", TWO, score, {}, trials=14)
    calls = []

    def dies(attempt):
        calls.append(attempt.number)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return score(attempt)

    for _ in range(20):
        try:
            parts = optimise(tmp_path / "parts", TWO, dies, {}, trials=14)
            break
        except KeyboardInterrupt:
            with (tmp_path / "parts" / "search.jsonl").open("ab") as file:
                file.write(b'{"op_code": 5, "wor')  # a kill in the middle of a line
    assert summary(parts) == summary(whole)
    assert len(calls) == 14 + 6  # each kill costs the trial that it met, once


def test_more_trials_go_on_and_a_budget_ends_them(tmp_path):
    def slow(attempt):
        attempt._before += 1800  # as if half an hour had passed
        return score(attempt)

    assert len(optimise(tmp_path, TWO, slow, {}, trials=9, processor_hours=1).trials) == 2
    assert len(optimise(tmp_path, TWO, slow, {}, trials=9, processor_hours=1).trials) == 2
    assert len(optimise(tmp_path, TWO, slow, {}, trials=5).trials) == 5


def test_what_is_below_the_median_is_pruned(tmp_path):
    seen = []

    def steps(attempt):
        for step in range(3):
            seen.append((attempt.number, step))
            attempt.report(score(attempt) - (attempt.number >= 5) * 9, step)
        return score(attempt)

    states = [state for state, *_ in summary(optimise(tmp_path / "a", TWO, steps, {}, trials=7))]
    assert states == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert [step for number, step in seen if number >= 5] == [0, 0]
    assert {state for state, *_ in summary(optimise(tmp_path / "b", TWO, steps, {}, 7, prune=False))} == {"COMPLETE"}


def test_the_first_trial_is_the_configs_own(tmp_path):
    assert optimise(tmp_path, TWO, score, {}, trials=1, first={"x": 0.25}).trials[0].params["x"] == 0.25


def test_failures_are_told_and_the_search_goes_on(tmp_path):
    def fails(attempt):
        if attempt.number == 2 or attempt.folder.parts[-3] == "at_once":
            raise ValueError("no such thing\nsecond line")
        return score(attempt)

    study = optimise(tmp_path / "later", TWO, fails, {}, trials=4)
    assert [state for state, *_ in summary(study)] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert trials_table(study)["error"][2] == "no such thing"
    assert "Traceback" in (tmp_path / "later/trials/002/log.txt").read_text()
    with pytest.raises(BenchmarkError, match=r"Trial 0 failed, with .*: no such thing"):
        optimise(tmp_path / "at_once", TWO, fails, {}, trials=4)


def test_nothing_of_others_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr("mner.files.WAIT", 0.1)
    optimise(tmp_path / "a", TWO, score, {"config": 1}, trials=1)
    with pytest.raises(DataFormatError, match="config 1, now 2"):
        optimise(tmp_path / "a", TWO, score, {"config": 2}, trials=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "search.jsonl").write_text("mine\n")
    with pytest.raises(DataFormatError, match="did not write"):
        optimise(tmp_path / "b", TWO, score, {}, trials=1)
    assert (tmp_path / "b" / "search.jsonl").read_text() == "mine\n"
    (tmp_path / "c" / "trials").mkdir(parents=True)
    with pytest.raises(DataFormatError, match="no search began"):
        optimise(tmp_path / "c", TWO, score, {}, trials=1)
    (tmp_path / "a" / "trials" / "001").mkdir()
    with pytest.raises(DataFormatError, match="no search began"):
        optimise(tmp_path / "a", TWO, score, {"config": 1}, trials=2)

    def busy(attempt):
        with pytest.raises(BusyError):
            optimise(tmp_path / "d", TWO, score, {}, trials=1)
        return 0.0

    optimise(tmp_path / "d", TWO, busy, {}, trials=1)


@pytest.mark.parametrize(
    ("options", "said"), [({"trials": 0}, "at least one trial"), ({"processor_hours": 0}, "above 0")]
)
def test_budgets_that_are_none(tmp_path, options, said):
    with pytest.raises(BenchmarkError, match=said):
        optimise(tmp_path, TWO, score, {}, **{"trials": 1, **options})


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(CONFIG)
    return tmp_path / "base.yaml"


@pytest.mark.slow
def test_the_command_killed_and_gone_on_with(config, tmp_path, monkeypatch, capfd):
    epochs = []

    def counted(self):
        epochs.append(self.current_epoch)
        if len(epochs) == 4:  # in the second epoch of the second trial
            raise KeyboardInterrupt

    monkeypatch.setattr(FusionModule, "on_train_epoch_start", counted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        search_command(config, SPACE, trials=2)
    assert search_command(config, SPACE, trials=2) == 0
    assert epochs == [0, 1, 0, 1, 1]
    assert "Next: mner fit --config search/best.yaml" in capfd.readouterr().out
    rows = list(csv.DictReader((tmp_path / "search/trials.csv").open()))
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert rows[0]["model.learning_rate"] == "0.002"
    best = yaml.safe_load((tmp_path / "search/best.yaml").read_text())
    rate = best["model"]["init_args"]["learning_rate"]
    assert rate == float(max(rows, key=lambda row: float(row["f1"]))["model.learning_rate"])
    assert (tmp_path / "search/search.png").stat().st_size > 1000
    assert not list(tmp_path.glob("search/trials/*/*/checkpoints"))
    # What the best config trains is what was searched.
    cli = main(["fit", "--config", "search/best.yaml", "--trainer.logger=false", "--trainer.enable_progress_bar=false"])
    assert float(cli.trainer.checkpoint_callback.best_model_score) == max(float(row["f1"]) for row in rows)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{model.lerning_rate: [1, 2]}", "there is no option 'lerning_rate'; did you mean learning_rate?"),
        ("{trainer.max_epochs: [1, many]}", "--trainer.max_epochs: got many, expected a whole number"),
    ],
)
def test_options_that_fit_does_not_have_are_one_line(config, space, said, capsys):
    assert main(["search", str(config), "--space", space]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"mner search: .*{re.escape(said)}", told), told


def test_a_journal_that_is_damaged(tmp_path):
    optimise(tmp_path, TWO, score, {}, trials=1)
    lines = (tmp_path / "search.jsonl").read_text().splitlines(keepends=True)
    json.loads(lines[-1])
    (tmp_path / "search.jsonl").write_text("".join([*lines[:-1], "{\n"]))
    with pytest.raises(DataFormatError, match="the journal of a search"):
        optimise(tmp_path, TWO, score, {}, trials=2)
