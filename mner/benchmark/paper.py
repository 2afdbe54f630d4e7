"""The paper's numbers, and why they are not simply comparable."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Precision, recall and F1 in percent; the first two are None where the paper has F1 alone."""

    precision: float | None
    recall: float | None
    f1: float


TABLE_1: dict[str, dict[str, Published]] = {
    "Twitter2015": {
        "exp1.1": Published(69.37, 73.73, 71.48),
        "exp1.2": Published(67.37, 71.58, 69.41),
        "exp2.1": Published(70.40, 72.56, 71.46),
        "exp2.2": Published(67.41, 72.37, 69.80),
        "exp2.3": Published(69.53, 74.04, 71.71),
        "exp3.1": Published(68.84, 71.39, 70.09),
        "exp4.1": Published(68.52, 74.61, 71.49),
        "exp4.2": Published(66.99, 72.68, 69.71),
        "yu2020": Published(71.67, 75.23, 73.41),
    },
    "Twitter2017": {
        "exp1.1": Published(83.62, 87.33, 85.44),
        "exp1.2": Published(82.54, 85.31, 83.90),
        "exp2.1": Published(85.42, 87.41, 86.40),
        "exp2.2": Published(84.97, 85.71, 85.34),
        "exp2.3": Published(84.78, 86.66, 85.71),
        "exp3.1": Published(84.06, 85.39, 84.72),
        "exp4.1": Published(86.16, 87.49, 86.82),
        "exp4.2": Published(84.14, 85.71, 84.92),
        "yu2020": Published(85.28, 85.34, 85.31),
    },
    # Table 4, on test; on dev 50.30 and 51.61.
    "Snapchat": {"exp1.1": Published(None, None, 50.57), "exp4.1": Published(None, None, 51.18)},
}
"""Chen et al. (2021), Tables 1 and 4, by data set and by the first part of a config's name."""

CAVEATS: dict[str, list[str]] = {
    "": [
        "The paper's numbers are on test, of an unknown number of runs with unknown seeds.",
        "The paper's released code decodes by arg-max instead of Viterbi, trains the CRF on special tokens and word "
        "pieces as B-LOC, and has no class for CM, VAM and CAM.",
    ],
    "Twitter2015": [
        "Copies of Twitter-2015 differ in their labels (gold of one scores an F1 of 95.86 on another's test split), "
        "and the paper does not say which it used.",
        "The paper's precision and recall of Exp 4.1 give an F1 of 71.44, not the 71.49 printed.",
    ],
    "Twitter2017": [
        "The paper's Twitter-2017 is the partition of 4,290/1,432/1,459 posts, not the public one of 3,373/723/723; "
        "only its row of Yu et al. (2020) is on the public one and can be compared.",
    ],
    "Snapchat": ["The paper's Snapchat data are private."],
}
"""What to keep in mind, for all data sets and for each."""


def published(dataset: str, system: str) -> Published | None:
    """The paper's numbers for a config, found by the first part of its name (`exp1.1_…`); None without any."""
    return TABLE_1.get(dataset, {}).get(system.partition("_")[0])
