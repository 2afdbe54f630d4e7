"""A store of training words for a model, with k, temperature and weight chosen on the valid split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mner.batch import Batch
from mner.data.datamodules.base import MNERDataModule
from mner.data.dataset import MNERDataset
from mner.data.windows import whole_posts
from mner.fusion.base import FusionModule
from mner.labels import Mode
from mner.metrics import SpanF1
from mner.nn.neighbours import HeadInputs, WordNeighbours, model_mark, owner
from mner.nn.posteriors import decode_posteriors

K = (8, 16, 32, 64, 128)
TEMPERATURES = (0.01, 0.03, 0.1, 0.3)
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Setting(NamedTuple):
    """A choice of k, temperature and weight, and its F1 on the valid split."""

    k: int
    temperature: float
    weight: float
    f1: float


class Chosen(NamedTuple):
    """What was tried.

    Attributes:
        store: The training words, with the best setting.
        alone: F1 of the model's own best sequences.
        posteriors: F1 of its marginals, decoded as mixtures are.
        tried: All settings, best first.
    """

    store: WordNeighbours
    alone: float
    posteriors: float
    tried: list[Setting]


class _Words(NamedTuple):
    """The words of a split, one after the other, as a model sees them."""

    states: Tensor  # (m, d)
    posteriors: Tensor  # (m, l)
    gold: Tensor  # (m,)
    owners: Tensor  # (m,)
    lengths: list[int]  # of its posts
    f1: float  # of the model's own best sequences


def choose_neighbours(
    model: FusionModule,
    data: MNERDataModule,
    k: Sequence[int] = K,
    temperature: Sequence[float] = TEMPERATURES,
    weight: Sequence[float] = WEIGHTS,
    device: str = "cpu",
    mode: Mode = "lenient",
) -> Chosen:
    """Store the words of the training split, and try settings on the valid split.

    If the model's own sequences are the best, the weight is 0. Of equal settings the first is taken.

    Args:
        model: A trained model.
        data: Its data, with gold tags in both splits.
        k: Numbers of neighbours to try.
        temperature: Temperatures to try.
        weight: Weights of the neighbours to try.
        device: Where the model runs.
        mode: Reading of tag sequences.

    Raises:
        MNERError: If the model has no last layer that scores each word once.
    """
    if not (k and temperature and weight) or min(k) < 1 or min(temperature) <= 0 or min(weight) < 0 or max(weight) > 1:
        raise ValueError("Expected k of at least 1, temperatures over 0 and weights from 0 to 1, some of each")
    model.eval().to(device)
    data.serve(model)
    train, valid = (_read(model, data, data.dataset(split), device, mode) for split in ("train", "valid"))
    known = train.gold >= 0
    store = WordNeighbours(train.states[known], train.gold[known], train.owners[known], model.labels, model_mark(model))
    nearest = store.nearest(valid.states, valid.owners, max(k))
    tried = []
    for count, heat in product(k, temperature):
        its, found = nearest.distribution(count, heat, len(model.labels))
        for share in weight:
            part = share * found[:, None]
            f1 = _f1(model, part * its + (1 - part) * valid.posteriors, valid, mode)
            tried.append(Setting(count, heat, share, f1))
    tried.sort(key=lambda setting: -setting.f1)
    best = tried[0]
    store.k, store.temperature, store.weight = best[:3] if best.f1 > valid.f1 else (best.k, best.temperature, 0.0)
    return Chosen(store, valid.f1, _f1(model, valid.posteriors, valid, mode), tried)


@torch.no_grad()
def _read(model: FusionModule, data: MNERDataModule, dataset: MNERDataset, device: str, mode: Mode) -> _Words:
    collate = data.collate(dataset)
    order = sorted(range(len(dataset)), key=lambda place: int(dataset.lengths[place]))
    metric = SpanF1(model.labels, mode)
    states, posteriors, gold, owners, lengths = [], [], [], [], []
    for start in range(0, len(order), data.eval_batch_size):
        items = dataset.__getitems__(order[start : start + data.eval_batch_size])
        made = collate(items)
        batch = cast(Batch, {name: v.to(device) if isinstance(v, Tensor) else v for name, v in made.items()})
        mask = batch["word_mask"]
        with HeadInputs(model) as seen:
            scores = model.label_scores(batch)
        whole, posts = whole_posts(scores, batch)
        pred = pad_sequence([torch.tensor(path) for path in model.decode(whole, posts)], batch_first=True)
        metric.update(pred, posts["tags"].cpu(), posts["word_mask"].cpu())
        alone = scores.exp() if model.decodes_posteriors else model.crf.marginals(scores, mask)
        states.append(seen.states(mask)[mask].float().cpu())
        posteriors.append(alone[mask].float().cpu())
        gold.append(batch["tags"][mask].cpu())
        marks = torch.tensor([owner(words) for words in batch["words"]])
        owners.append(marks[mask.nonzero()[:, 0].cpu()])
        lengths += posts["word_mask"].sum(1).tolist()
    f1 = float(metric.compute()["f1"])
    return _Words(torch.cat(states), torch.cat(posteriors), torch.cat(gold), torch.cat(owners), lengths, f1)


def _f1(model: FusionModule, posteriors: Tensor, words: _Words, mode: Mode) -> float:
    """F1 of the best sequences that BIO allows under distributions (m, l) of the words of a split."""
    parts = (torch.split(part, words.lengths) for part in (posteriors, words.gold))
    padded, gold = (pad_sequence(list(part), batch_first=True) for part in parts)  # (b, w, l), (b, w)
    mask = torch.arange(gold.shape[1]) < torch.tensor(words.lengths)[:, None]
    paths = decode_posteriors(padded, mask, model.labels, bool(model.hparams["constrain"]))
    metric = SpanF1(model.labels, mode)
    metric.update(pad_sequence([torch.tensor(path) for path in paths], batch_first=True), gold, mask)
    return float(metric.compute()["f1"])
