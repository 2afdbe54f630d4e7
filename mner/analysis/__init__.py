"""Analyses of predictions: pure functions from prediction files to tables (pandas) and figures (matplotlib).

pandas and matplotlib are imported when a function needs them.
"""

from mner.analysis.attention import plot_attention
from mner.analysis.caption_quality import caption_quality
from mner.analysis.comparison import Comparison, compare
from mner.analysis.counts import score
from mner.analysis.datasets import data_table
from mner.analysis.emap import Projection, additive_projection
from mner.analysis.learning import learning_curve, nested_subsets
from mner.analysis.length import by_length
from mner.analysis.mistakes import Errors, errors
from mner.analysis.plots import (
    plot_calibration,
    plot_comparison,
    plot_confusion,
    plot_learning_curve,
    plot_length,
    plot_subsets,
)
from mner.analysis.resampling import bootstrap_interval, randomisation_test
from mner.analysis.significance import holm, paired_t
from mner.analysis.subsets import by_ambiguity, by_overlap
from mner.analysis.verdict import Verdict, judge, mean_f1
from mner.data.predictions import read_predictions

__all__ = [
    "Comparison",
    "Errors",
    "Projection",
    "Verdict",
    "additive_projection",
    "bootstrap_interval",
    "by_ambiguity",
    "by_length",
    "by_overlap",
    "caption_quality",
    "compare",
    "data_table",
    "errors",
    "holm",
    "judge",
    "learning_curve",
    "mean_f1",
    "nested_subsets",
    "paired_t",
    "plot_attention",
    "plot_calibration",
    "plot_comparison",
    "plot_confusion",
    "plot_learning_curve",
    "plot_length",
    "plot_subsets",
    "randomisation_test",
    "read_predictions",
    "score",
]
