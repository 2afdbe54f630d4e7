"""Several models as one: means and the best sequence by enumeration, checkpoints that load, votes by hand."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import pytorch_lightning as pl
import torch

from mner import Tagger
from mner.cli import main
from mner.data import SampleDataModule
from mner.data.formats.predictions import Prediction, ScoredSpan, read_predictions
from mner.errors import CheckpointError, MNERError
from mner.fusion import CoAttention, FusionModule, TextOnly
from mner.labels import allowed_transitions
from mner.tagger.ensemble import ensemble, vote
from tests.tiny_sets import QUIET


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("ensemble") / "sample")


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """Three checkpoints, one of a strategy with images, and their ensemble."""
    folder = tmp_path_factory.mktemp("members")
    paths = []
    for seed, cls in enumerate((TextOnly, TextOnly, CoAttention)):
        pl.seed_everything(seed, verbose=False)
        data = SampleDataModule(root, train=16, batch_size=4, features="objects")
        width = {"region_width": data.region_width} if cls.uses_image else {}
        model = cls(data.labels, learning_rate=1e-2, **width)
        trainer = pl.Trainer(max_steps=3, limit_val_batches=0, **QUIET)
        trainer.fit(model, data)
        paths.append(str(folder / f"{seed}.ckpt"))
        trainer.save_checkpoint(paths[-1])
    ensemble(paths, str(folder / "all.ckpt"))
    return paths, str(folder / "all.ckpt")


@pytest.fixture
def batch(root):
    data = SampleDataModule(root, train=16, batch_size=4, features="objects")
    data.prepare_data()
    data.setup("fit")
    return next(iter(data.val_dataloader()))


@torch.no_grad()
def test_the_mean_of_marginals_by_enumeration(made, batch):
    """Each member's distribution over all sequences that BIO allows, summed up; then the best product of means."""
    paths, joined = made
    members = [FusionModule.load_from_checkpoint(path) for path in paths]
    both = FusionModule.load_from_checkpoint(joined)
    labels = range(len(both.labels))
    start, follow = allowed_transitions(both.labels)
    w = 3  # words of each post; the others are masked
    batch["word_mask"] = batch["word_mask"].clone()
    batch["word_mask"][:, w:] = False
    said = torch.zeros(*batch["word_mask"].shape, len(labels), dtype=torch.float64)
    sequences = [
        path for path in product(labels, repeat=w)
        if start[path[0]] and all(follow[a][b] for a, b in pairwise(path))
    ]  # fmt: skip
    tags = torch.tensor(sequences)
    for member in members:
        emissions = member.emissions(batch).double()
        for row in range(len(emissions)):
            scores = member.crf(emissions[row, :w].expand(len(tags), w, -1), tags, reduction="none").softmax(0)
            for word in range(w):
                said[row, word].index_add_(0, tags[:, word], scores / len(members))
    torch.testing.assert_close(both.posterior(batch)[:, :w], said[:, :w].float(), atol=1e-5, rtol=1e-4)
    decoded = both.decode(both.label_scores(batch), batch)
    for row, path in enumerate(decoded):
        words = int(batch["word_mask"][row].sum())
        worth = [sum(said[row, t, y].log() for t, y in enumerate(one[:words])) for one in sequences]
        assert sum(said[row, t, y].log() for t, y in enumerate(path)) == pytest.approx(max(worth).item(), abs=1e-4)


def test_it_loads_wherever_a_checkpoint_does(made, root, tmp_path, batch):
    paths, joined = made
    model = FusionModule.load_from_checkpoint(joined)
    assert sum(value.numel() for value in model.state_dict().values()) == sum(
        value.numel() for path in paths for value in FusionModule.load_from_checkpoint(path).state_dict().values()
    )
    out = str(tmp_path / "out.jsonl")
    options = ["--data", "SampleDataModule", "--data.root", root, "--data.train", "16", "--data.features", "objects"]
    main(["predict", "--ckpt_path", joined, *options, "--output", out, "--trainer.accelerator", "cpu"])
    data = SampleDataModule(root, train=16, features="objects")
    trainer = pl.Trainer(**QUIET)
    (scores,) = trainer.test(model, data, verbose=False)
    posts = read_predictions(out).posts
    assert len(posts) > 3
    assert 0 <= scores["test/f1"] <= 1
    tagged = Tagger.from_checkpoint(joined)(words=list(posts[0].words))
    assert len(tagged.tags) == len(posts[0].words)
    with pytest.raises(MNERError, match="not trained"):
        pl.Trainer(max_steps=1, **QUIET).fit(model, data)


def test_members_that_differ_are_refused(made, tmp_path, root):
    paths, _ = made
    content = torch.load(paths[0], weights_only=True)
    content["mner"]["data"]["replace_urls"] = "URL"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="another `replace_urls`"):
        ensemble([paths[0], str(tmp_path / "other.ckpt")], str(tmp_path / "out.ckpt"))
    for wrong, message in (([paths[0]], "two systems"), ([paths[0], "a.jsonl"], "some of both")):
        with pytest.raises(MNERError, match=message):
            ensemble(wrong, str(tmp_path / "out.ckpt"))
    with pytest.raises(MNERError, match="--votes"):
        ensemble(paths, str(tmp_path / "out.ckpt"), votes=2)


def post(*entities, id_="1", words=("a", "b", "c", "d")):
    return Prediction(id_, None, words, None, ("O",) * len(words), tuple(ScoredSpan(*entity) for entity in entities))


def test_votes_by_hand():
    systems = [
        post((0, 2, "PER", 0.9), (3, 4, "LOC", 0.5)),
        post((0, 2, "PER", 0.6)),
        post((0, 1, "PER", 1.0), (3, 4, "LOC", 0.4)),
    ]
    found = vote(systems)
    assert found.entities == (ScoredSpan(0, 2, "PER", 0.5), ScoredSpan(3, 4, "LOC", 0.3))
    assert found.pred == ("B-PER", "I-PER", "O", "B-LOC")
    assert vote(systems, 3).entities == ()
    assert [entity[:3] for entity in vote(systems, 1).entities] == [(0, 2, "PER"), (3, 4, "LOC")], "more votes go first"
    even = [post((0, 2, "PER", 0.5)), post((1, 3, "ORG", 0.7))]
    assert vote(even).entities == (), "one of two is no majority"
    assert [entity[:3] for entity in vote(even, 1).entities] == [(1, 3, "ORG")], "then the larger score"
    assert vote([post((0, 1, "PER", None)), post()], 1).entities == (ScoredSpan(0, 1, "PER", 0.5),)


def test_a_majority_never_overlaps():
    """Of all spans over four words, whatever three systems say."""
    generator = torch.Generator().manual_seed(0)
    everything = [(start, end, type_) for start in range(4) for end in range(start + 1, 5) for type_ in ("A", "B")]
    for _ in range(300):
        systems = []
        for _ in range(3):
            taken = []
            for place in torch.randperm(len(everything), generator=generator).tolist()[:6]:
                start, end, _ = span = everything[place]
                if all(end <= other[0] or other[1] <= start for other in taken):
                    taken.append(span)
            systems.append(post(*((*span, 1.0) for span in taken)))
        counted = {span for span in everything if sum((*span, 1.0) in system.entities for system in systems) >= 2}
        assert {entity[:3] for entity in vote(systems).entities} == counted


def test_files_of_other_posts_are_refused(tmp_path, made, root):
    paths, _ = made
    outs = []
    for path in paths[:2]:
        outs.append(str(tmp_path / f"{len(outs)}.jsonl"))
        options = ["--data", "SampleDataModule", "--data.root", root, "--data.train", "16"]
        main(["predict", "--ckpt_path", path, *options, "--output", outs[-1], "--trainer.accelerator", "cpu"])
    assert main(["ensemble", *outs, "--out", str(tmp_path / "votes.jsonl")]) in (None, 0)
    first, joined = read_predictions(outs[0]), read_predictions(tmp_path / "votes.jsonl")
    assert [post.gold for post in joined.posts] == [post.gold for post in first.posts]
    assert joined.header["fingerprint"] == first.header["fingerprint"]
    lines = (tmp_path / "1.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "short.jsonl").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(MNERError, match="same posts"):
        ensemble([outs[0], str(tmp_path / "short.jsonl")], str(tmp_path / "none.jsonl"))
    with pytest.raises(MNERError, match="from 1 to 2"):
        ensemble(outs, str(tmp_path / "none.jsonl"), votes=3)
