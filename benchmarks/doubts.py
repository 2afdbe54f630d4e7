"""How good `mner data doubts` is: labels of real posts are damaged on purpose, and looked for.

A tenth of the spans are damaged (a third each: another type, an edge one word off, gone). Doubts of cross-validated
models are ranked beside the span loss of one model that was trained on all posts, with the same encoder and epochs:

    python benchmarks/doubts.py data/twitter2017/train.txt --model models/minilm --frozen --draws 10 --out FOLDER

A unit is a span: a doubt is right if its label was damaged, or if it says that something is missing where a span was
taken away; each damage counts once. Precision is that of the first 100, recall that of twice as many as are damaged.
Labels that were wrong before count as wrong doubts, so that precision is a lower bound. FOLDER keeps each draw, and a
run that was stopped goes on; the table is over all draws that are there.

With --frozen the encoder is not trained: the words' vectors (256 principal components of its middle and last layer,
side by side) are computed once and a small CRF learns on them: seconds a fold, not minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mner.curation.cross_validation import Train, cross_validate
from mner.curation.damage import Damage, damage
from mner.curation.doubts import Doubt, decode, find_doubts, no_entity_score, span_score
from mner.curation.posteriors import Posteriors, mean, posteriors_of
from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.files import write_json
from mner.labels import Span, bio_labels, repair, spans, split_tag

FIRST, COMPONENTS = 100, 256
Ranking = list[tuple[str, Span | None, Span | None]]
"""Of each unit the post, its label, and what is said to be missing instead."""


def ranked(doubts: Sequence[Doubt]) -> Ranking:
    """Doubts as units."""
    return [(doubt.post, doubt.label, doubt.proposal) for doubt in doubts]


def by_span_loss(posts: Sequence[Example], found: Posteriors) -> Ranking:
    """All labelled spans, and all that the model finds where no label is, by -log p of the label as it stands."""
    places = {label: place for place, label in enumerate(found.labels)}
    units: list[tuple[float, str, Span | None, Span | None]] = []
    predicted = decode([found.of[post.id] for post in posts], found.labels)
    for post, seen in zip(posts, predicted, strict=True):
        rows, given = found.of[post.id], spans(post.tags or ())
        units += [(span_score(rows, span, places), post.id, span, None) for span in given]
        for span in seen:
            if not any(label.start < span.end and span.start < label.end for label in given):
                units.append((no_entity_score(rows, span, places), post.id, None, span))
    return [(post, label, new) for _, post, label, new in sorted(units, key=lambda unit: unit[0])]


def by_cleanlab(posts: Sequence[Example], found: Posteriors) -> Ranking | None:
    """The same units by cleanlab's quality of their words, the least of each; None where cleanlab is not installed."""
    try:
        from cleanlab.token_classification.rank import get_label_quality_scores
    except ImportError:
        return None
    places = {label: place for place, label in enumerate(found.labels)}
    given = [[places[tag] for tag in repair(post.tags or ())] for post in posts]
    rows = [found.of[post.id].astype(np.float64) for post in posts]
    _, words = get_label_quality_scores(given, rows, token_score_method="normalized_margin")
    quality = {post.id: np.asarray(some) for post, some in zip(posts, words, strict=True)}

    def least(post: str, span: Span) -> float:
        return float(quality[post][span.start : span.end].min())

    units = by_span_loss(posts, found)
    return sorted(units, key=lambda unit: least(unit[0], unit[1] or unit[2] or Span(0, 1, "")))


def hits(ranking: Ranking, done: Sequence[Damage]) -> list[bool]:
    """Whether each unit is a damaged one that was not found before it."""
    left: dict[str, list[Damage]] = {}
    for one in done:
        left.setdefault(one.id, []).append(one)
    found = []
    for post, label, new in ranking:
        some = left.get(post, [])
        place = next((place for place, one in enumerate(some) if _is(one, label, new)), None)
        found.append(place is not None)
        if place is not None:
            del some[place]
    return found


def _is(one: Damage, label: Span | None, new: Span | None) -> bool:
    if one.after is not None:
        return label == one.after
    return label is None and new is not None and new.start < one.before.end and one.before.start < new.end


def scores(ranking: Ranking, done: Sequence[Damage]) -> dict[str, float]:
    """Precision of the first 100 and recall of twice as many as there are damages, in percent."""
    right = hits(ranking, done)
    return {
        "precision": 100 * sum(right[:FIRST]) / FIRST,
        "recall": 100 * sum(right[: 2 * len(done)]) / max(1, len(done)),
    }


# What trains


def fine_tuned(options: argparse.Namespace, labels: list[str], seed: int) -> Train:
    """`TextOnly` on the encoder, which is trained."""
    import pytorch_lightning as pl

    from mner.data import PostsDataModule
    from mner.fusion import TextOnly

    def train(posts: list[Example], held: list[Example], fold: int) -> Posteriors:
        pl.seed_everything(seed, verbose=False)
        types = sorted({split_tag(label)[1] for label in labels} - {""})
        data = PostsDataModule(train=posts, valid=held, types=types, text_encoder=options.model, batch_size=16)
        model = TextOnly(
            data.labels, text_encoder=options.model, head_learning_rate=5e-3, warmup_ratio=0.1, learning_rate=5e-5
        )
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(
            max_epochs=options.epochs, limit_val_batches=0, num_sanity_val_steps=0, gradient_clip_val=1.0,
            enable_model_summary=False, **quiet,
        )  # fmt: skip
        trainer.fit(model, train_dataloaders=data.train_dataloader())
        return posteriors_of(model, data.val_dataloader())

    return train


class OnVectors(nn.Module):
    """A CRF on vectors of words, with a hidden layer."""

    def __init__(self, width: int, labels: list[str], hidden: int = 128) -> None:
        from mner.nn import CRF

        super().__init__()
        layers = [nn.Dropout(0.2), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, len(labels))]
        self.layers = nn.Sequential(*layers)
        self.crf = CRF(len(labels), batch_first=True, labels=labels)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, w, f) -> (b, w, l)."""
        return self.layers(vectors)


def on_vectors(options: argparse.Namespace, labels: list[str], seed: int, vectors: dict[str, torch.Tensor]) -> Train:
    """A CRF on the vectors of the frozen encoder."""
    place = {label: number for number, label in enumerate(labels)}

    def padded(posts: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = pad_sequence([vectors[post.id] for post in posts], batch_first=True)
        return rows, torch.arange(rows.shape[1])[None] < torch.tensor([len(post.words) for post in posts])[:, None]

    def train(posts: list[Example], held: list[Example], fold: int) -> Posteriors:
        torch.manual_seed(seed)
        random, batch = np.random.default_rng(seed), 64
        model = OnVectors(len(next(iter(vectors.values()))[0]), labels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
        steps = options.epochs * -(-len(posts) // batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(options.epochs):
            order = random.permutation(len(posts))
            for start in range(0, len(posts), batch):
                some = [posts[row] for row in order[start : start + batch]]
                rows, mask = padded(some)
                gold = [torch.tensor([place[tag] for tag in post.tags or ()]) for post in some]
                loss = -model.crf(model(rows), pad_sequence(gold, batch_first=True), mask, reduction="token_mean")
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        model.eval()
        found = Posteriors(labels)
        with torch.no_grad():
            order = sorted(held, key=lambda post: len(post.words))
            for start in range(0, len(order), 64):
                rows, mask = padded(some := order[start : start + 64])
                for post, marginals in zip(some, model.crf.marginals(model(rows), mask).numpy(), strict=True):
                    found.of[post.id] = marginals[: len(post.words)]
        return found

    return train


@torch.no_grad()
def word_vectors(name: str, posts: Sequence[Example], labels: list[str], file: Path) -> dict[str, torch.Tensor]:
    """Principal components of an encoder's middle and last layer at the first piece of each word; kept in a file."""
    if not file.exists():
        from mner.data.batching import Collate
        from mner.data.dataset import MNERDataset
        from mner.data.tokenizer import PostTokenizer
        from mner.encoders.text import TextEncoder

        tokenizer, encoder = PostTokenizer(name), TextEncoder(name).eval()
        dataset, collate = MNERDataset(posts, labels, tokenizer), Collate(tokenizer.pad_id)
        found: dict[str, Any] = {}
        order = np.argsort(dataset.lengths, kind="stable").tolist()
        for start in range(0, len(order), 64):
            batch = collate([dataset[row] for row in order[start : start + 64]])
            if "windows" in batch:
                sys.exit("--frozen takes posts that fit into the encoder; leave it out")
            states = encoder.model(
                input_ids=batch["token_ids"], attention_mask=batch["token_mask"].long(), output_hidden_states=True
            ).hidden_states
            both = torch.cat([states[len(states) // 2], states[-1]], -1)
            rows = both.gather(1, batch["word_starts"][..., None].expand(-1, -1, both.shape[-1])).half().numpy()
            for place, row in zip(order[start : start + 64], rows, strict=True):
                found[str(place)] = row[: len(posts[place].words)]
        every = np.concatenate([found[str(place)] for place in range(len(posts))]).astype(np.float32)
        every = (every - every.mean(0)) / (every.std(0) + 1e-6)
        _, axes = np.linalg.eigh(every.T @ every)
        parts = every @ axes[:, -COMPONENTS:]
        np.save(file, (parts / parts.std()).astype(np.float32))
    rows = torch.from_numpy(np.load(file)).split([len(post.words) for post in posts])
    return {post.id: row for post, row in zip(posts, rows, strict=True)}


# Draws


def one_draw(
    posts: Sequence[Example], options: argparse.Namespace, seed: int, maker: Callable[[int], Train]
) -> dict[str, Any]:
    """Damage, cross-validate, rank, score."""
    begun = time.process_time()
    damaged, done = damage(posts, options.share, seed)
    train = maker(seed)
    several = cross_validate(damaged, train, options.out / f"draw-{seed}", options.folds, seed)
    held = mean(several, damaged)
    one = train(damaged, damaged, 0)
    doubts = find_doubts(damaged, held)
    cleanlab = by_cleanlab(damaged, held)
    return {
        "seed": seed,
        "spans": sum(len(spans(post.tags or ())) for post in posts),
        "damaged": len(done),
        "doubts": scores(ranked(doubts), done),
        "doubts by margin alone": scores(ranked(sorted(doubts, key=lambda doubt: -doubt.margin)), done),
        "one model's span loss": scores(by_span_loss(damaged, one), done),
        "held-out span loss": scores(by_span_loss(damaged, held), done),
        **({} if cleanlab is None else {"cleanlab's words": scores(cleanlab, done)}),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def table(draws: Sequence[dict[str, Any]]) -> str:
    """Means over draws, and the difference to one model's span loss with its 95 % interval (paired t)."""
    names = ["doubts", "one model's span loss", "doubts by margin alone", "held-out span loss"]
    names += ["cleanlab's words"] * all("cleanlab's words" in draw for draw in draws)
    lines = ["| ranking | precision at 100 | recall at twice the number |", "|---|---|---|"]
    for name in names:
        cells = [f"{np.mean([draw[name][what] for draw in draws]):.1f}" for what in ("precision", "recall")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = []
    for what in ("precision", "recall"):
        apart = np.array([draw[names[0]][what] - draw[names[1]][what] for draw in draws])
        half = student.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else np.nan
        cells.append(f"{apart.mean():+.1f} ({apart.mean() - half:+.1f} to {apart.mean() + half:+.1f})")
    lines.append(f"| doubts minus one model's span loss | {' | '.join(cells)} |")
    least = min(draw["doubts"]["precision"] for draw in draws)
    return "\n".join([*lines, "", f"{len(draws)} draws; least precision at 100: {least:.0f}"])


def main() -> int:
    """Run the draws that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("posts", type=Path, help="a file of posts with gold, in any format that is read")
    parser.add_argument("--model", required=True, help="text encoder: folder or name")
    parser.add_argument("--out", type=Path, default=Path("doubts_benchmark"), help="folder that keeps the draws")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.1, help="share of the spans that is damaged")
    parser.add_argument("--frozen", action="store_true", help="train on vectors of the encoder as it is")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    posts = [post for post in read_posts(options.posts) if post.tags is not None]
    labels = bio_labels(sorted({split_tag(tag)[1] for post in posts for tag in post.tags or ()} - {""}))
    options.out.mkdir(parents=True, exist_ok=True)
    vectors = word_vectors(options.model, posts, labels, options.out / "vectors.npy") if options.frozen else {}

    def maker(seed: int) -> Train:
        return on_vectors(options, labels, seed, vectors) if options.frozen else fine_tuned(options, labels, seed)

    for seed in range(options.first, options.first + options.draws):
        file = options.out / f"draw-{seed}.json"
        if not file.exists():
            write_json(file, one_draw(posts, options, seed, maker))
        print(file.name, file.read_text(encoding="utf-8").replace("\n", ""), flush=True)
    files = sorted(options.out.glob("draw-*.json"))
    print(table([json.loads(file.read_text(encoding="utf-8")) for file in files]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
