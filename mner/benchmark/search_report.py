"""What a search found: a table of trials, what mattered, a picture, and the best config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mner.analysis.presentation import COLOURS, markdown
from mner.benchmark.space import SECONDS, Range, need_optuna, with_options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study
    from pandas import DataFrame

ENOUGH = 4
"""Finished trials without which nothing is said of what mattered."""


def trials_table(study: Study) -> DataFrame:
    """One row a trial: its state, score, options and processor time."""
    import pandas as pd

    rows = {}
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            continue
        options = trial.user_attrs.get("options", {})
        rows[trial.number] = {
            "state": trial.state.name.lower(),
            "f1": trial.value,
            **{name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()},
            "epochs": len(trial.intermediate_values),
            "processor minutes": round(trial.user_attrs.get(SECONDS, 0.0) / 60, 2),
            "error": trial.user_attrs.get("error", ""),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "trial"
    return frame if frame.empty or frame["error"].any() else frame.drop(columns="error")


def importances(study: Study) -> dict[str, float] | None:
    """How much each option mattered among the finished trials, of 1 in all; None with too few of them.

    PED-ANOVA (Watanabe et al. 2023): how far the values of the better trials are spread otherwise than those of all.
    """
    optuna = need_optuna()
    scores = [trial.value for trial in complete(study)]
    if len(scores) < ENOUGH or len(set(scores)) < 2:
        return None
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    return {str(name): float(value) for name, value in found.items()}


def complete(study: Study) -> list[Any]:
    """The trials that were trained to their end."""
    optuna = need_optuna()
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def write_report(
    study: Study, config: Mapping[str, Any], space: Mapping[str, Range], out: Path, seeds: Sequence[int], monitor: str
) -> None:
    """Write `trials.csv`, `results.md`, `search.png` and, once a trial is complete, `best.yaml`.

    Args:
        study: What was tried.
        config: The config that was begun with.
        space: Range of each option.
        out: Folder, empty.
        seeds: Of each trial.
        monitor: The score.
    """
    table, found = trials_table(study), importances(study)
    table.to_csv(out / "trials.csv")
    counts = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
    parts = [
        "# Search",
        f"{len(table)} trials: {counts}. Score: mean of the best {monitor} over the seeds {list(seeds)}, on the split "
        "that also chose checkpoint and options, so that it is too good; score the choice on other posts.",
        markdown(table),
        "## What mattered",
    ]
    if found is None:
        parts.append(f"Fewer than {ENOUGH} finished trials with different scores do not tell.")
    else:
        parts.append("PED-ANOVA's share of each option in what made the better trials; with few trials, a hint.")
        parts.append("\n".join(f"- {name}: {100 * value:.0f} %" for name, value in found.items()))
    if complete(study):
        best = study.best_trial
        chosen = with_options({"seed_everything": seeds[0], **config}, best.user_attrs["options"])
        chosen["seed_everything"] = seeds[0]
        head = f"# Written by mner search: trial {best.number}, {monitor} {100 * study.best_value:.2f} on valid\n"
        text = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)
        (out / "best.yaml").write_text(head + text, encoding="utf-8")
        parts += [f"## The best: trial {best.number}", f"```yaml\n{head}{text}```", "![Trials by option](search.png)"]
        plot_search(study, space, found).savefig(out / "search.png", dpi=150)
    (out / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def plot_search(study: Study, space: Mapping[str, Range], found: Mapping[str, float] | None) -> Figure:
    """F1 of the finished trials by each option, and how much each mattered.

    Args:
        study: What was tried.
        space: Range of each option.
        found: `importances`.
    """
    from matplotlib.figure import Figure

    panels = len(space) + (found is not None)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows), dpi=120, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    trials = complete(study)
    for place, (name, one) in zip(axes, space.items(), strict=False):
        _scatter(place, name, one, trials)
    if found is not None:
        place = axes[len(space)]
        place.barh(list(found)[::-1], [100 * value for value in found.values()][::-1], color=COLOURS[0])
        place.set_xlabel("Importance (%), PED-ANOVA")
    for place in axes[panels:]:
        place.set_visible(False)
    for place in axes[:panels]:
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="both", alpha=0.3)
    return figure


def _scatter(axes: Axes, name: str, one: Range, trials: Sequence[Any]) -> None:
    scores = [100 * trial.value for trial in trials]
    if one.kind == "choice":
        texts = [json.dumps(value) for value in one.values]
        x: list[float] = [texts.index(trial.params[name]) for trial in trials]
        axes.set_xticks(range(len(texts)), [text if len(text) <= 12 else f"{text[:11]}…" for text in texts])
        axes.set_xlim(-0.5, len(texts) - 0.5)
    else:
        x = [trial.params[name] for trial in trials]
        axes.set_xscale("log" if one.kind == "log" else "linear")
    axes.plot(x, scores, "o", color=COLOURS[0], alpha=0.6)
    best = max(range(len(scores)), key=scores.__getitem__)
    axes.plot(x[best : best + 1], scores[best : best + 1], "D", color=COLOURS[1])
    axes.set_xlabel(name)
    axes.set_ylabel("F1 (%)")
