"""Scores as text, and the check of our counts against seqeval's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mner.labels import entity_types

Tagged = tuple[list[str], list[str]]


def score_table(labels: Sequence[str], metrics: Mapping[str, float], stage: str) -> str:
    """Precision, recall and F1 in percent, per type and over all, lenient and strict.

    Args:
        labels: The BIO labels.
        metrics: What was logged, `f"{stage}/f1"`, `f"{stage}/PER/f1"`, `f"{stage}/strict/f1"`, …
        stage: `val` or `test`.
    """
    names = ("precision", "recall", "f1")
    lines = [f"{'':10}{'lenient':>33}{'strict':>33}", f"{'':10}" + "".join(f"{name:>11}" for name in names) * 2]
    for type_ in [*entity_types(labels), ""]:
        row = "".join(
            f"{100 * metrics[_key(stage, mode, type_, name)]:11.2f}" for mode in ("", "strict/") for name in names
        )
        lines.append(f"{type_ or 'all':10}{row}")
    return "\n".join(lines)


def _key(stage: str, mode: str, type_: str, name: str) -> str:
    return f"{stage}/{mode}{type_ + '/' if type_ else ''}{name}"


def check_against_seqeval(tested: Sequence[Tagged], metrics: Mapping[str, float], stage: str) -> str:
    """Seqeval's report on gold and predicted tags.

    Raises:
        RuntimeError: If its lenient or strict F1 differs from what `SpanF1` logged by more than rounding.
    """
    from seqeval.metrics import classification_report, f1_score
    from seqeval.scheme import IOB2

    gold = [pair[0] for pair in tested]
    pred = [pair[1] for pair in tested]
    reference = {
        f"{stage}/f1": f1_score(gold, pred, zero_division=0),
        f"{stage}/strict/f1": f1_score(gold, pred, mode="strict", scheme=IOB2, zero_division=0),
    }
    for name, value in reference.items():
        if abs(value - metrics[name]) > 1e-5:
            raise RuntimeError(f"SpanF1 gives {name}={metrics[name]:.6f}, but seqeval {value:.6f}; please report this")
    report: str = classification_report(gold, pred, digits=4, zero_division=0)
    return report
