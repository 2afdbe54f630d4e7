"""A search for options that give the best valid F1: Optuna proposes, `mner fit` trains, what is hopeless is stopped.

Everything that Optuna knows of a search is one growing file, `search.jsonl` (its journal, through `mner.growing_file`).
A search that was killed goes on with the trial that it was in, from its last epoch, and ends as it would have without
the kill: what is proposed depends on the trials before and on the number of the trial, not on the process.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import yaml

from mner.benchmark.plan import BenchmarkError
from mner.benchmark.run import controlled, free_memory, printing_to
from mner.benchmark.search_report import write_report
from mner.benchmark.space import SECONDS, Range, need_optuna, option_of, with_options
from mner.errors import DataFormatError
from mner.files import output_folder
from mner.growing_file import Growing

if TYPE_CHECKING:
    from optuna import Study, Trial

JOURNAL = "search.jsonl"
EPOCHS = 10_000
"""Steps of a trial that each of its seeds may have; the step of an epoch is that of its seed and its number."""


def processor_seconds() -> float:
    """What this process and its ended children took so far."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


class Attempt:
    """A trial under way.

    Attributes:
        number: Counted from 0.
        options: The value of each option.
        folder: Its own.
    """

    def __init__(self, trial: Trial, options: dict[str, Any], folder: Path) -> None:
        self.number = trial.number
        self.options = options
        self.folder = folder
        self._trial = trial
        self._before = trial.user_attrs.get(SECONDS, 0.0) - processor_seconds()

    def recall(self, name: str, otherwise: Any) -> Any:
        """What `note` kept, before a kill too."""
        return self._trial.user_attrs.get(name, otherwise)

    def note(self, **facts: Any) -> None:
        """Keep plain data, and the processor time so far."""
        for name, value in {**facts, SECONDS: round(self._before + processor_seconds(), 2)}.items():
            self._trial.set_user_attr(name, value)

    def report(self, score: float, step: int) -> None:
        """Say how good it is by now.

        Raises:
            optuna.TrialPruned: If more than half of the trials before it were better at this step.
        """
        self.note()
        known = self._trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        if step not in known:  # a run that goes on from a checkpoint may come by again
            self._trial.report(score, step)
        if self._trial.should_prune():
            raise need_optuna().TrialPruned


Objective = Callable[[Attempt], float]
"""Does a trial and gives its score, more being better."""


def optimise(
    out: Path,
    space: Mapping[str, Range],
    objective: Objective,
    facts: Mapping[str, Any],
    trials: int,
    processor_hours: float | None = None,
    seed: int = 0,
    prune: bool = True,
    first: Mapping[str, Any] | None = None,
    done: Callable[[Study], None] = lambda study: None,
) -> Study:
    """Do trials until the budget is used up, those of earlier calls counted; one process, one trial at a time.

    Args:
        out: Folder; one that is not there, or of a search that was begun with the same space and facts.
        space: Range of each option.
        objective: Does a trial.
        facts: What else decides the result, plain data.
        trials: How many.
        processor_hours: No trial is begun once the trials have taken so much; at least one is.
        seed: Of what is proposed.
        prune: Stop trials whose score so far is below the median of the others at the same step, after five trials.
        first: The options of the first trial, all or some.
        done: Called after each trial.

    Returns:
        Optuna's study.

    Raises:
        DataFormatError: If the folder holds another search, or files of somebody else.
        BusyError: If another process is at this search.
        BenchmarkError: If no trial came to an end before one failed, as then the next would too.
    """
    optuna = need_optuna()
    if trials < 1 or not space:
        raise BenchmarkError(f"Expected at least one trial and one option, but got {trials} and {list(space)}")
    if processor_hours is not None and not processor_hours > 0:
        raise BenchmarkError(f"Expected a budget of processor hours above 0, but got {processor_hours}")
    noted = {**facts, "space": {name: str(one) for name, one in space.items()}, "seed": seed, "prune": prune}
    if not (out / JOURNAL).exists() and (out / "trials").exists():
        raise DataFormatError(out / "trials", None, "a folder that no search began", "a free name", "Choose another.")
    journal = _Journal(out / JOURNAL, noted)
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(cast(Any, journal)),
            study_name="search",
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner(),
        )
        if first and not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(first))
        while (number := _next(study, trials, processor_hours)) is not None:
            study.sampler = optuna.samplers.TPESampler(seed=seed + number)
            _try(study, number, space, objective, out / "trials" / f"{number:03}")
            done(study)
    finally:
        journal.file.close()
    return cast("Study", study)


def _next(study: Study, trials: int, processor_hours: float | None) -> int | None:
    """The number of the trial to do: the one that was being done, or a new one; None for none."""
    known = study.get_trials(deepcopy=False)
    finished = [trial for trial in known if trial.state.is_finished()]
    spent = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in finished)
    over = processor_hours is not None and spent >= 3600 * processor_hours and len(finished) > 0
    return None if len(finished) >= trials or over else len(finished)


def _try(study: Study, number: int, space: Mapping[str, Range], objective: Objective, folder: Path) -> None:
    optuna = need_optuna()
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.RUNNING]
    trial = optuna.trial.Trial(study, begun[0]._trial_id) if begun else study.ask()
    if not begun and folder.exists():
        raise DataFormatError(folder, None, "a folder that no search began", "a free name", "Move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(trial, {name: one.suggest(trial, name) for name, one in space.items()}, folder)
    attempt.note(options=attempt.options)
    try:
        score = objective(attempt)
    except optuna.TrialPruned:
        attempt.note()
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except Exception as error:
        with printing_to(folder / "log.txt"):
            traceback.print_exc()
        line = (str(error).splitlines() or [type(error).__name__])[0]
        attempt.note(error=line)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        good = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        if not study.get_trials(deepcopy=False, states=good):
            where = folder / "log.txt"
            raise BenchmarkError(f"Trial {number} failed, with {attempt.options}: {line} ({where})") from None
    else:
        attempt.note()
        study.tell(trial, score)


class _Journal:
    """Optuna's `BaseJournalBackend` on a growing file: a line of JSON for each thing that happened."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.file = Growing(path, facts)
        stream = self.file.files[path]
        stream.seek(0)
        content = stream.read()
        kept = content[: content.rfind(b"\n") + 1]
        if kept != content:  # a kill in the middle of a line
            stream.truncate(len(kept))
        try:
            self.lines = [json.loads(line) for line in kept.splitlines()]
        except ValueError as error:
            self.file.close()
            raise DataFormatError(path, None, f"something else ({error})", "the journal of a search") from None

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """What happened from some line on."""
        return self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add what happened."""
        data = "".join(json.dumps(log) + "\n" for log in logs)
        self.file.write(self.path, data.encode())
        self.file.flush()
        self.lines += map(json.loads, data.splitlines())


Command = Callable[[list[str], Sequence[pl.Callback]], Any]
"""Takes the arguments of `mner fit` and further callbacks; gives the LightningCLI."""


def training(config: Mapping[str, Any], seeds: Sequence[int], monitor: str, run: Command) -> Objective:
    """An objective: `mner fit` with each seed, and the mean of the best valid scores.

    Args:
        config: Content of a config.
        seeds: Of the runs.
        monitor: The score.
        run: Runs `mner fit`.
    """

    def objective(attempt: Attempt) -> float:
        text = yaml.safe_dump(with_options(config, attempt.options), sort_keys=False, allow_unicode=True)
        place = attempt.folder / "config.yaml"
        place.write_text(text, encoding="utf-8")
        scores: dict[str, float] = dict(attempt.recall("scores", {}))
        for index, seed in enumerate(seeds):
            if str(seed) in scores:
                continue
            folder = attempt.folder / f"seed{seed}"
            last = folder / "checkpoints" / "last.ckpt"
            options = [*controlled(seed, folder, last if last.is_file() else None), f"checkpoint.monitor={monitor}"]
            options += ["trainer.devices=1", "trainer.num_nodes=1"]
            watch = _Watch(attempt, monitor, list(scores.values()), index * EPOCHS)
            try:
                with printing_to(attempt.folder / "log.txt"):
                    cli = run(["fit", "--config", str(place), *(f"--{option}" for option in options)], [watch])
                best = cli.trainer.checkpoint_callback.best_model_score
                if best is None:
                    raise BenchmarkError("The run was never validated, so that it has no score")
                scores[str(seed)] = float(best)
                attempt.note(scores=scores)
            except Exception:  # pruned, or failed: nobody goes on from its checkpoints
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                raise
            finally:
                free_memory()
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return sum(scores.values()) / len(scores)

    return objective


class _Watch(pl.Callback):
    """Reports the mean of the finished seeds' scores and the best so far of this one, after each epoch."""

    def __init__(self, attempt: Attempt, monitor: str, finished: list[float], step: int) -> None:
        self.attempt = attempt
        self.monitor = monitor
        self.finished = finished
        self.step = step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report."""
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        scores = [float(trainer.callback_metrics[self.monitor])]
        before = getattr(trainer.checkpoint_callback, "best_model_score", None)  # its own turn comes after this one
        best = max(scores + ([] if before is None else [float(before)]))
        scores = [*self.finished, best]
        self.attempt.report(sum(scores) / len(scores), self.step + trainer.current_epoch)


def search(
    config: Mapping[str, Any],
    space: Mapping[str, Range],
    out: Path,
    run: Command,
    trials: int,
    processor_hours: float | None = None,
    seeds: Sequence[int] = (0,),
    monitor: str = "val/f1",
    prune: bool = True,
) -> Study:
    """Search over options of `mner fit`; the first trial has the config's own values where the space has them.

    Args:
        config: Content of a config.
        space: Range of each option.
        out: Folder for `search.jsonl`, `trials` and the report.
        run: Runs `mner fit`.
        trials: How many, with those that are there.
        processor_hours: No trial is begun once so much processor time is used.
        seeds: Each trial is trained with each of them, and scored by their mean.
        monitor: The score to make large.
        prune: Stop trials that are below the median.

    Returns:
        Optuna's study.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise BenchmarkError(f"Expected seeds that are given and differ, but got {list(seeds)}")
    stored = {name: one.stored(option_of(config, name)) for name, one in space.items()}

    def report(study: Study) -> None:
        with output_folder(out) as draft:
            write_report(study, config, space, draft, seeds, monitor)

    facts = {"config": json.loads(json.dumps(config, default=str)), "seeds": list(seeds), "monitor": monitor}
    first = {name: value for name, value in stored.items() if value is not None}
    objective = training(config, seeds, monitor, run)
    study = optimise(out, space, objective, facts, trials, processor_hours, seeds[0], prune, first, report)
    report(study)
    return study
