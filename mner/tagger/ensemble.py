"""`mner ensemble`: several trained models as one, by the mean of their label distributions, or files by votes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.formats.predictions import (
    MARK,
    Prediction,
    ScoredSpan,
    prediction_header,
    read_predictions,
    write_predictions,
)
from mner.errors import CheckpointError, MNERError
from mner.files import STANDARD, output_folder, refuse_foreign, refuse_inputs
from mner.fusion.base import CrfReduction, FusionModule
from mner.labels import Span, entity_types, tags_of
from mner.nn.posteriors import mix
from mner.training.checkpoint import KEY, build_module, class_path, import_class, read_checkpoint

_AGREED = ("tokenizer", "max_length", "replace_urls", "context")
"""What members' checkpoints must say alike of their data: they read the same batches."""
_OF_LIGHTNING = ("epoch", "global_step", "pytorch-lightning_version")
"""What Lightning wants of a checkpoint, taken from the first member."""
_KEPT = ("image_encoder", "region_width")
"""Arguments of members by which data modules know what to bring."""


class Ensemble(FusionModule):
    """Models that were trained apart, of any strategies, as one: the mean of their label distributions, one Viterbi.

    With μ_k,t(y) the marginals of member k's CRF, BIO allowing, or the posterior that it decodes::

        p_t(y) = 1/K Σ_k μ_k,t(y)          (w, l)

    Tags are the best sequence of Π_t p_t(y_t) among those that BIO allows (`mner.nn.posteriors`). Means of
    probabilities are what Lakshminarayanan et al. (2017, deep ensembles) take. It is not trained; `ensemble` makes its
    checkpoint, which holds all members and loads wherever one does, and `mner.training.Distillation` teaches what it
    knows to a model of the size of one.

    Args:
        labels: BIO labels.
        members: Of each member, `class`, `hyper_parameters` and `text_config`, as its checkpoint has them.
        text_encoder: Not used; members have their own.
        image_encoder: That of members that read images.
        image_weights: Not used.
        region_width: That of members that read stored features.
        crf_reduction: Of `val/loss`.
        constrain: Decode well-formed BIO only.
    """

    def __init__(
        self,
        labels: list[str],
        members: list[dict[str, Any]],
        text_encoder: str | dict[str, Any] = "tiny",
        image_encoder: str | None = None,
        image_weights: str | None = None,
        region_width: int | None = None,
        crf_reduction: CrfReduction = "token_mean",
        constrain: bool = True,
    ) -> None:
        super(FusionModule, self).__init__(labels)  # not the base's: encoders, head and CRF are the members'
        self.save_hyperparameters()
        self.hparams.update(labels=self.labels, region_width=region_width)
        self.hparams.pop("_instantiator", None)
        if not members:
            raise ValueError("Expected `members` of an ensemble, but got none; `mner ensemble` makes its checkpoint")
        self.members = nn.ModuleList(_member(member) for member in members)
        kinds = cast("list[FusionModule]", list(self.members))
        facts = {
            "uses_image": any(member.uses_image for member in kinds),
            "needs": frozenset(need for member in kinds for need in member.needs),
        }
        self.__dict__.update(facts)  # class variables of strategies, and here of what the members are

    @property
    def text_encoder(self) -> Any:
        """The first member's, by which posts are cut to the encoder's positions."""
        return self.members[0].text_encoder

    @property
    def image_encoder(self) -> Any:  # type: ignore[override]
        """That of the first member that has one."""
        found = (getattr(member, "image_encoder", None) for member in self.members)
        return next((encoder for encoder in found if encoder is not None), None)

    def posterior(self, batch: Batch) -> Tensor:
        """The mean of what the members say (b, w, l)."""
        said = [_posterior(cast("FusionModule", member), batch) for member in self.members]
        return mix(said, [1 / len(said)] * len(said))

    def emissions(self, batch: Batch) -> Tensor:
        """What is decoded, the logarithm of the mean (b, w, l)."""
        return self.label_scores(batch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """An ensemble has none."""
        return self.configure_optimizers()

    def configure_optimizers(self) -> NoReturn:
        """An ensemble is not trained."""
        raise MNERError(
            "An ensemble is not trained: train its members, or a model of the size of one with the callback "
            "`Distillation`, whose teacher it can be"
        )


def _posterior(member: FusionModule, batch: Batch) -> Tensor:
    if member.decodes_posteriors:
        return member.label_scores(batch).exp()
    return member.crf.marginals(member.emissions(batch), batch["word_mask"])


def _member(member: Mapping[str, Any]) -> FusionModule:
    cls: type[FusionModule] = import_class(member["class"], FusionModule)
    options = {key: value for key, value in member["hyper_parameters"].items() if not key.startswith("_")}
    return cls(**{**options, "text_encoder": member["text_config"], "image_weights": None})


def join_checkpoints(paths: Sequence[str | Path], output: str | Path) -> Path:
    """Write the checkpoint of an `Ensemble` of checkpoints, which needs none of them afterwards.

    Raises:
        CheckpointError: If one is none of `mner`, or they differ in labels, tokeniser, context or images.
    """
    contents = [read_checkpoint(path) for path in paths]
    models = [build_module(content, FusionModule, path) for content, path in zip(contents, paths, strict=True)]
    first = contents[0]
    reads_images = next((place for place, model in enumerate(models) if model.uses_image), 0)
    for place, model in enumerate(models):
        _check_labels(paths[0], paths[place], models[0], model)
        _check_data(paths[0], paths[place], first, contents[place])
        if model.uses_image:
            _check_images(paths[reads_images], paths[place], models[reads_images], model)
        model.text_encoder.merge()
    members = [
        {
            "class": class_path(model),
            "hyper_parameters": content["hyper_parameters"],
            "text_config": model.text_encoder.config,
        }
        for content, model in zip(contents, models, strict=True)
    ]
    images: Any = next((model.hparams for model in models if model.uses_image), {})
    kept: dict[str, Any] = {key: images.get(key) for key in _KEPT}
    whole = Ensemble(models[0].labels, members, **kept)
    for member, model in zip(whole.members, models, strict=True):
        member.load_state_dict(model.state_dict())
    whole.restored = first[KEY]
    joined: dict[str, Any] = {key: first[key] for key in _OF_LIGHTNING if key in first}
    joined["state_dict"] = whole.state_dict()
    whole.on_save_checkpoint(joined)
    target = Path(output)
    refuse_inputs(target, paths)
    with output_folder(target.parent) as folder:
        torch.save(joined, folder / target.name)
    return target


def _check_labels(one: object, other: object, first: FusionModule, model: FusionModule) -> None:
    if model.label_sets:
        raise CheckpointError(f"Expected members with one list of labels, but {other} has label sets")
    if model.labels != first.labels:
        raise CheckpointError(
            f"Expected members for the same entity types, but {one} is for {entity_types(first.labels)} and {other} "
            f"for {entity_types(model.labels)}"
        )


def _check_data(one: object, other: object, first: dict[str, Any], content: dict[str, Any]) -> None:
    for key in _AGREED:
        if first[KEY]["data"].get(key) != content[KEY]["data"].get(key):
            raise CheckpointError(
                f"Expected members that read the same batches, but {one} and {other} were trained with another "
                f"`{key}` of the data; join their prediction files instead (`mner predict` of each)"
            )


def _check_images(one: object, other: object, first: FusionModule, model: FusionModule) -> None:
    for key in _KEPT:
        if model.hparams.get(key) != first.hparams.get(key):
            raise CheckpointError(
                f"Expected members that read the same images, but {one} has {key} {first.hparams.get(key)!r} and "
                f"{other} {model.hparams.get(key)!r}; join their prediction files instead (`mner predict` of each)"
            )


def vote(predictions: Sequence[Prediction], votes: int | None = None) -> Prediction:
    """What several systems found in a post, by votes on whole entities: start, end and type.

    An entity is taken if `votes` systems have it, by default more than half of them; such entities never overlap, since
    two of them share a system. With fewer votes they can: then more votes go first, then the larger mean score, the
    earlier start, the longer entity and the type's name.

    Args:
        predictions: Of each system, for the same post.
        votes: How many systems have to have found an entity; 1 takes what any has.

    Returns:
        The post with what was voted for; the score of an entity is the mean over all systems, 0 for one that has it not
        (a system without scores counts as 1).
    """
    least = len(predictions) // 2 + 1 if votes is None else votes
    found: dict[Span, list[float]] = {}
    for system in predictions:
        for start, end, type_, score in system.entities:
            found.setdefault(Span(start, end, type_), []).append(1.0 if score is None else score)
    ranked = sorted(
        (-len(scores), -sum(scores), span.start, -span.end, span.type, span)
        for span, scores in found.items()
        if len(scores) >= least
    )
    taken: list[Span] = []
    for *_, span in ranked:
        if all(span.end <= other.start or other.end <= span.start for other in taken):
            taken.append(span)
    first = predictions[0]
    entities = tuple(ScoredSpan(*span, round(sum(found[span]) / len(predictions), 6)) for span in sorted(taken))
    return Prediction(
        id=first.id,
        image_id=first.image_id,
        words=first.words,
        gold=first.gold,
        pred=tuple(tags_of(taken, len(first.words))),
        entities=entities,
        has_image=first.has_image,
    )


def join_predictions(paths: Sequence[str | Path], output: str | Path, votes: int | None = None) -> list[Prediction]:
    """Write the votes of several prediction files as one.

    Raises:
        MNERError: If they are of other posts, or `votes` is not 1 to their number.
    """
    if votes is not None and not 1 <= votes <= len(paths):
        raise MNERError(f"Expected `votes` from 1 to {len(paths)}, the number of files, but got {votes}")
    refuse_foreign(output, MARK, paths)
    files = [read_predictions(path) for path in paths]
    tables = [{post.id: post for post in file.posts} for file in files]
    for path, table in zip(paths, tables, strict=True):
        if table.keys() != tables[0].keys():
            differing = sorted(table.keys() ^ tables[0].keys())[0]
            raise MNERError(
                f"Expected predictions for the same posts, but {paths[0]} and {path} differ in {differing!r}"
            )
        for post in files[0].posts:
            if table[post.id].words != post.words:
                raise MNERError(
                    f"Expected the same words, but those of post {post.id!r} differ in {paths[0]} and {path}"
                )
    posts = [vote([table[post.id] for table in tables], votes) for post in files[0].posts]
    header = files[0].header
    made = prediction_header(
        model="votes of " + ", ".join(Path(path).name for path in paths),
        split=header.get("split", "test"),
        data=header.get("data", ""),
        fingerprint=header.get("fingerprint"),
        labels=header.get("labels", []),
    )
    write_predictions(output, made, posts)
    return posts


def ensemble(systems: list[str], out: str | None = None, votes: int | None = None) -> None:
    """Join several systems, or seeds of one: checkpoints by the mean of their posteriors, prediction files by votes.

    Args:
        systems: Checkpoints (`.ckpt`), or prediction files of the same posts; two at least.
        out: The checkpoint to write, which loads wherever one does (`mner predict`, `test`, `tag`), or the prediction
            file; by default `ensemble.ckpt` or `ensemble.jsonl`.
        votes: Of prediction files, how many have to have found an entity; by default more than half.
    """
    if len(systems) < 2:
        raise MNERError(f"Expected two systems at least, but got {systems}")
    checkpoints = [os.fspath(path).endswith(".ckpt") for path in systems]
    if all(checkpoints):
        if votes is not None:
            raise MNERError("Expected `--votes` with prediction files only; checkpoints are joined by their posteriors")
        print(f"{len(systems)} models as one: {join_checkpoints(systems, out or 'ensemble.ckpt')}")
    elif any(checkpoints):
        raise MNERError("Expected checkpoints (.ckpt) or prediction files, but got some of both")
    else:
        place = out or "ensemble.jsonl"
        posts = join_predictions(systems, place, votes)
        if place != STANDARD:
            print(f"{len(posts)} posts by votes of {len(systems)} systems: {place}")
