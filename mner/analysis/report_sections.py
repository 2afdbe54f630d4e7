"""The sections of the report: from systems to a title, sentences that explain, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from mner.analysis import presentation as plots
from mner.analysis.caption_quality import caption_quality
from mner.analysis.comparison import compare
from mner.analysis.error_analysis import KINDS, errors
from mner.analysis.scoring import marked, score
from mner.analysis.subsets import AMBIGUITY, EDGES, OVERLAP, Definition, by_ambiguity, by_length, by_overlap
from mner.data.examples import Example
from mner.data.formats.predictions import Prediction, Predictions
from mner.data.statistics import split_statistics
from mner.labels import Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


Systems = Mapping[str, Sequence[Predictions]]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
FREQUENT = 20


@dataclass
class Part:
    """A table, a figure or a post with its entities, under a line that says what it is.

    `name` is the file name of the table or figure where it is written beside the page; several posts share a part.
    """

    name: str
    caption: str
    table: DataFrame | None = None
    figure: Figure | None = None
    posts: list[tuple[Prediction, dict[str, Sequence[str]]]] = field(default_factory=list)


@dataclass
class Section:
    """A part of the report with its explanation, in plain text; paragraphs are a list."""

    title: str
    text: list[str]
    parts: list[Part]


def about(systems: Systems, train: Sequence[Example] | None) -> Section:
    """What was analysed: files, models, data."""
    import pandas as pd

    rows = {}
    for name, runs in systems.items():
        header = runs[0].header
        versions = header.get("versions") or {}
        rows[name] = {
            "model": header.get("model") or "not given (CoNLL output)",
            "data": header.get("data") or "-",
            "split": header.get("split") or "-",
            "context": ", ".join(header.get("context") or []) or "-",
            "runs": str(len(runs)),
            "seeds": ", ".join(str(run.header.get("seed", "-")) for run in runs),
            "posts with image": _share(runs[0].posts),
            "fingerprint": header.get("fingerprint") or "-",
            "versions": ", ".join(f"{package} {version}" for package, version in versions.items()) or "-",
        }
    frame = pd.DataFrame(rows).rename_axis("")  # systems side by side: their entries are long
    splits = {"evaluated": _examples(next(iter(systems.values()))[0].posts)}
    if train is not None:
        splits = {"train": list(train), **splits}
    text = [
        "The systems, and the posts that they were run on. Prediction files can be compared only if they are of the "
        "same posts with the same gold tags; the fingerprint, a hash of ids and gold tags, tells label versions apart.",
    ]
    parts = [
        Part("systems", "What was analysed", frame),
        Part("data", "The data (Table 2 of the paper). Characters are counted without spaces.", data_table(splits)),
    ]
    return Section("What this is about", text, parts)


def scores(systems: Systems, mode: Mode) -> Section:
    """Precision, recall and F1, all and by type."""
    found = {name: score(runs) for name, runs in systems.items()}
    text = [
        "An entity is correct if its first word, its last word and its type are all as in the gold. Precision is the "
        "share of predicted entities that are correct, recall the share of gold entities that were found, F1 their "
        "harmonic mean. “Lenient” and “strict” (IOB2) differ only in whether an I- tag that continues nothing opens an "
        f"entity. All other sections of this page use the {mode} reading.",
        "Intervals are bootstrap intervals over posts: how far the number could move with other posts of this kind. "
        "They do not say how far it moves with another training seed. Here and in the tables of groups they are plain "
        "percentiles of 1,000 samples, with counts averaged over runs; in the comparison they reckon with seeds too, "
        "so that two intervals of the same score differ.",
    ]
    by_type = {name: frame.loc[[mode]].droplevel("mode") for name, frame in found.items()}
    figure = plots.plot_subsets(by_type, "Type of entity")
    parts = [
        Part("scores", "Scores of each system", _join(found)),
        Part("scores_by_type", f"F1 by type, {mode}", figure=figure),
    ]
    return Section("Scores", text, parts)


def comparison(systems: Systems, mode: Mode, force: bool) -> Section:
    """The verdict on each pair of systems, and older tests beside it."""
    found = compare(systems, mode=mode, force=force)
    text = [
        "Is one system better than another, or did chance favour it? Differences are second minus first. The verdict "
        "asks whether F1, the mean over a system's runs, would differ on other posts and with other seeds too; se is "
        "how far either draw moves the difference (standard error). Small p: hard to explain by chance. “Holm” is the "
        "same p corrected for the number of pairs. dz is the size of an effect: mean difference over its standard "
        "deviation (0.2 is small, 0.8 large).",
        *found.notes,
    ]
    caption = "F1 of each system, with its 95 % interval (posts, and seeds where there are several runs)"
    figure = plots.plot_comparison(found.scores, found.tests)
    parts = [
        Part("comparison_scores", caption, found.scores),
        *(Part(f"comparison_{name}", sentence, frame) for name, sentence, frame in found.tables()),
        Part("comparison", "Dots right of the dashed line: the second system of the pair is better", figure=figure),
    ]
    return Section("Comparison", text, parts)


def overlap(systems: Systems, train: Sequence[Example] | None, mode: Mode) -> Section:
    """Table 6, left: seen and unseen entities."""
    title = "Entities seen and not seen in training (Table 6)"
    if train is None:
        return Section(title, [_no_train("This section needs")], [])
    found = {key: {name: by_overlap(runs, train, key, mode) for name, runs in systems.items()} for key in DEFINITIONS}
    text = [
        "Does a system only know names that it met in training? Surfaces are compared case-folded. The paper can be "
        "read in three ways, so the table has all three; the figure shows the first.",
        _placing(),
        *_definitions(OVERLAP),
    ]
    figure = plots.plot_subsets(found["caption"], "Entities")
    parts = [
        Part("seen_unseen", "Seen and unseen entities, by definition", _by_definition(found)),
        Part("seen_unseen", "Seen and unseen by surface and type (definition “caption”)", figure=figure),
    ]
    return Section(title, text, parts)


def ambiguity(systems: Systems, train: Sequence[Example] | None, mode: Mode) -> Section:
    """Table 6, right: ambiguous and unambiguous entities."""
    keys = [key for key in DEFINITIONS if train is not None or key == "text"]
    found = {key: {name: by_ambiguity(runs, train, key, mode) for name, runs in systems.items()} for key in keys}
    text = [
        "Some names are a person here and a place there. Are systems worse on them? Again the paper can be read in "
        f"three ways; the figure shows the definition “{keys[0]}”.",
        _placing(),
        *([] if train is not None else [_no_train("The definitions that look into the training set need")]),
        *_definitions({key: AMBIGUITY[key] for key in keys}),
    ]
    parts = [
        Part("ambiguity", "Ambiguous and unambiguous entities, by definition", _by_definition(found)),
        Part("ambiguity", f"Definition “{keys[0]}”", figure=plots.plot_subsets(found[keys[0]], "Entities")),
    ]
    return Section("Ambiguous entities (Table 6)", text, parts)


def length(systems: Systems, mode: Mode) -> Section:
    """Figure 2: scores by length."""
    found = {name: by_length(runs, EDGES, mode) for name, runs in systems.items()}
    text = [
        "Short posts give little context; the paper finds that images help most on those of at most seven words. Mind "
        "the intervals: buckets with few posts say little.",
    ]
    parts = [
        Part("length", "F1 by number of words of the post (Figure 2)", figure=plots.plot_length(found)),
        Part("length", "The same in numbers", _join(found)),
    ]
    return Section("Length of posts (Figure 2)", text, parts)


def mistakes(systems: Systems, mode: Mode) -> Section:
    """Errors by kind, type and surface form, and calibration."""
    import pandas as pd

    text = [
        "Each gold entity is held against at most one predicted entity, exact matches first: "
        + "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
        + ". Columns are gold types (for spurious entities the predicted type).",
        "Confidence is the probability that the model's CRF gives the whole entity. A well calibrated system is right "
        "on 80 % of the entities of which it is 80 % sure; the calibration error is the mean distance from that.",
    ]
    if any(len(runs) > 1 for runs in systems.values()):
        text.append("Of a system with several runs this section shows the first.")
    found = {name: errors(runs[0], mode) for name, runs in systems.items()}
    parts = [Part("errors", "Errors by kind (number of entities)", _join({n: e.kinds for n, e in found.items()}))]
    for name, of_system in found.items():
        slug = _slug(name)
        figure = plots.plot_confusion(of_system.confusion)
        parts.append(
            Part(
                f"confusion_{slug}",
                f"{name}: types of paired entities; “(none)” is missed or spurious; darker: more of the row",
                figure=figure,
            )
        )
        frequent = of_system.surfaces.head(FREQUENT)
        ranked = frequent.set_axis(pd.RangeIndex(1, len(frequent) + 1, name="rank"))
        parts.append(Part(f"frequent_{slug}", f"{name}: the most frequent errors (case-folded)", ranked))
        if of_system.calibration is None:
            text.append(f"{name}: the predictions have no confidences, so nothing can be said of calibration.")
        else:
            caption = (
                f"{name}: calibration; expected calibration error {100 * (of_system.calibration_error or 0):.1f} %"
            )
            fitted = systems[name][0].header.get("calibration")
            if isinstance(fitted, dict):
                text.append(
                    f"{name}: its confidences are at temperature {fitted.get('temperature')}, which `mner calibrate` "
                    f"fitted on {fitted.get('fitted_on')}. There the expected calibration error was "
                    f"{100 * fitted.get('before', float('nan')):.1f} % before and "
                    f"{100 * fitted.get('after', float('nan')):.1f} % after."
                )
            parts.append(Part(f"calibration_{slug}", caption, figure=plots.plot_calibration(of_system.calibration)))
    return Section("Errors", text, parts)


def parting(systems: Systems, mode: Mode, force: bool) -> Section:
    """Table 5: the posts on which one system is right and another wrong."""
    first, *rest = systems
    text = [
        f"The posts that “{first}” gets wholly right and another system does not, and the reverse (a post is right if "
        "all its entities are, and nothing else was predicted). With text only as the first system and captions as the "
        "others this is Table 5 of the paper. Mind: posts chosen because a system fails on them flatter any other "
        "system. Only a gain over a control (shuffled captions, another seed) speaks for better captions.",
    ]
    if any(len(runs) > 1 for runs in systems.values()):
        text.append("Of a system with several runs this section takes the first.")
    parts = []
    for second in rest:
        others = {name: systems[name][0] for name in rest if name != second}
        names = (first, second)
        frame = caption_quality(systems[first][0], systems[second][0], others, mode, force, names)
        parts.append(Part(f"parting_{_slug(second)}", f"“{first}” against “{second}”", frame))
    return Section("Where systems part (Table 5)", text, parts)


def examples(systems: Systems, mode: Mode, shown: int, seed: int) -> Section:
    """Posts with errors, drawn at random."""
    import numpy as np

    runs = {name: marked(of_system[0], mode) for name, of_system in systems.items()}
    first = next(iter(runs.values()))
    words = [post.post.words for post in first]
    aligned = {name: run for name, run in runs.items() if [post.post.words for post in run] == words}
    wrong = [place for place, post in enumerate(first) if any(run[place].pred != post.gold for run in aligned.values())]
    drawn = sorted(np.random.default_rng(seed).permutation(wrong)[:shown].tolist())
    posts = [(first[place].post, {name: run[place].post.pred for name, run in aligned.items()}) for place in drawn]
    text = [f"{len(drawn)} of the {len(wrong)} posts on which at least one system errs, drawn at random."]
    if len(aligned) < len(runs):
        text.append("Systems on other posts are left out here.")
    return Section("Examples", text, [Part("examples", "Gold entities and those of each system", posts=posts)])


def _examples(posts: Iterable[Prediction]) -> list[Example]:
    return [Example(post.id, post.image_id, tuple(post.words), post.gold and tuple(post.gold)) for post in posts]


def _share(posts: Sequence[Prediction]) -> str:
    known = [post.has_image for post in posts if post.has_image is not None]
    return f"{sum(known)} of {len(known)}" if known else "not given"


def _join(frames: Mapping[str, DataFrame]) -> DataFrame:
    import pandas as pd

    return pd.concat(dict(frames), names=["system"])


def _by_definition(found: Mapping[Definition, Mapping[str, DataFrame]]) -> DataFrame:
    import pandas as pd

    return pd.concat({key: _join(frames) for key, frames in found.items()}, names=["definition"])


def _definitions(known: Mapping[Definition, str]) -> list[str]:
    return [f"“{key}”: {meaning}." for key, meaning in known.items()]


def _placing() -> str:
    return (
        "Gold entities of a subset make its recall. For precision a predicted entity is put into a subset by its own "
        "surface and its own predicted type; the paper does not say how it did that, so recall is the safer column."
    )


def _no_train(what: str) -> str:
    return f"{what} the training posts: run the command again with --train."


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)


def data_table(splits: Mapping[str, Sequence[Example]]) -> DataFrame:
    """One row a split: posts, lengths, entities in all and by type, malformed tags, fingerprint of the labels."""
    import pandas as pd

    found = {name: split_statistics(examples) for name, examples in splits.items()}
    types = sorted({type_ for split in found.values() for type_ in split.lenient})
    others = ("posts", "without entity", "entities", "fingerprint")  # a type may have such a name
    rows = {
        name: {
            "posts": split.posts,
            "without entity": split.without_entity,
            "words, mean": split.mean_words,
            "words, most": split.max_words,
            "characters, mean": split.mean_characters,
            "entities": sum(split.lenient.values()),
            **{f"type {type_}" if type_ in others else type_: split.lenient.get(type_, 0) for type_ in types},
            "stray I-": split.stray,
            "fingerprint": split.fingerprint,
        }
        for name, split in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")
