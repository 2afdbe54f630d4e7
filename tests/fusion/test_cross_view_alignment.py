"""ITA: both views against batches that were built so, the divergence against enumeration, and what is decoded."""

from __future__ import annotations

import itertools

import pytest
import pytorch_lightning as pl
import torch

from mner.data import SampleDataModule
from mner.errors import DataNotFoundError
from mner.fusion import CrossViewAlignment, FusionModule, TextOnly
from mner.nn.objectives import without_context
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from mner.testing import check_fusion
from mner.training import Trainer
from tests.fusion.samples import build, close, sample, wide

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
NO_CONTEXT = 2
KINDS = pytest.mark.parametrize("kind", ["positions", "sequence"])


def aligned(**options):
    """With weights in the encoder that make the context count."""
    module = build(CrossViewAlignment, **options)
    wide(module.text_encoder, 0.1)
    return module


def twin(module):
    """The same weights in a model that reads what it is given."""
    text = build(TextOnly)
    text.load_state_dict(module.state_dict())
    return text


def cut(row, words):
    """A post of which only the first words are asked for, so that all tag sequences can be counted."""
    post = sample(row)
    return {**post, **{name: post[name][:, :words] for name in ("word_starts", "word_mask", "tags")}}


def all_paths(crf, emissions):
    """All tag sequences over emissions (w, l), and the log of their probabilities."""
    paths = torch.tensor(list(itertools.product(range(emissions.shape[1]), repeat=len(emissions))))
    scores = crf.start_transitions[paths[:, 0]] + crf.end_transitions[paths[:, -1]]
    for word in range(len(emissions)):
        scores = scores + emissions[word, paths[:, word]]
        if word:
            scores = scores + crf.transitions[paths[:, word - 1], paths[:, word]]
    return paths, scores


def enumerated(module, post, kind, tau):
    """The divergence of a short post, from its definition."""
    (paths, full), (_, plain) = (
        all_paths(module.crf, twin(module).emissions(view)[0].double()) for view in (post, without_context(post))
    )
    if kind == "sequence":
        p, q = (scores / tau for scores in (full, plain))
        p, q = p.log_softmax(0), q.log_softmax(0)
        return (p.exp() * (p - q)).sum()
    total = 0.0
    for word in range(paths.shape[1]):
        sums = [
            torch.stack([scores.softmax(0)[paths[:, word] == label].sum() for label in range(len(module.labels))])
            for scores in (full, plain)
        ]
        p, q = ((marginals.log() / tau).log_softmax(0) for marginals in sums)
        total = total + tau**2 * (p.exp() * (p - q)).sum()
    return total


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_losses_are_those_of_the_formula(kind, tau):
    module = aligned(kind=kind, temperature=tau, weight=0.5)
    post = cut(0, 2)
    parts = module.losses(post)
    text = twin(module)
    assert parts["tagging"] == pytest.approx(text.nll(text.emissions(post), post).item())
    plain = without_context(post)
    assert parts["plain"] == pytest.approx(text.nll(text.emissions(plain), plain).item())
    expected = enumerated(module, post, kind, tau).item()
    assert expected > 1e-4
    assert parts["agreement"].item() == pytest.approx(0.5 * expected / 2, rel=1e-4)  # by words


@torch.no_grad()
@KINDS
def test_a_post_without_context_has_nothing_to_align(kind):
    module = build(CrossViewAlignment, kind=kind).train()  # with dropout, both passes differ
    parts = module.losses(sample(NO_CONTEXT))
    assert parts["agreement"] == 0
    assert parts["tagging"] != parts["plain"]
    beside = build(CrossViewAlignment, kind=kind, crf_reduction="sentence_mean")
    assert beside.losses(sample(0, NO_CONTEXT))["agreement"].item() == pytest.approx(
        beside.losses(sample(0))["agreement"].item() / 2, rel=1e-4
    )


@KINDS
def test_the_view_with_context_learns_nothing_from_the_other(kind):
    module, post = aligned(kind=kind), sample(0, 3)
    embeddings = module.text_encoder.model.embeddings.word_embeddings
    module.losses(post)["agreement"].backward()
    context = post["token_ids"][(post["segment_ids"] == 1) & post["token_mask"]]
    others = set(context.tolist()) - set(post["token_ids"][post["segment_ids"] == 0].tolist())
    assert others
    assert not embeddings.weight.grad[sorted(others)].any()
    assert embeddings.weight.grad[post["token_ids"][:, 1]].any()


@torch.no_grad()
def test_what_is_decoded_is_one_of_the_views():
    module, batch = aligned(), sample()
    text, mask = twin(module), batch["word_mask"]
    full, plain = text.emissions(batch), text.emissions(without_context(batch))
    assert not close(full, plain, mask, 1e-2)
    assert close(module.emissions(batch), full, mask)
    module.view = "post"
    assert close(module.emissions(batch), plain, mask)
    assert module(batch) == text(without_context(batch))
    losses = module.losses(batch)["agreement"]
    module.view = "context"
    assert losses == module.losses(batch)["agreement"]


def test_the_second_pass_of_a_technique_is_of_the_first_view():
    """R-Drop takes the emissions that a loss was computed from and those of another pass for the same view."""
    module, batch = build(CrossViewAlignment, view="post").train(), sample()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    seen = []
    module.extra_losses["spy"] = lambda model, batch, emissions: seen.append(emissions) or emissions.sum()
    module._losses(batch)
    assert close(seen[0], module.emissions(batch), batch["word_mask"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A few steps on the sample data, whose captions tell the type that the post does not."""
    root = tmp_path_factory.mktemp("ita")
    pl.seed_everything(0, verbose=False)
    data = SampleDataModule(str(root / "sample"), train=60, batch_size=8, context=["captions.jsonl"])
    model = CrossViewAlignment(data.labels, learning_rate=1e-3, head_learning_rate=1e-2)
    trainer = Trainer(max_epochs=6, limit_val_batches=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(root / "model.ckpt")
    return root, data


def test_inference_with_context_and_without(trained):
    root, data = trained
    scores = {}
    for view in ("context", "post"):
        model = FusionModule.load_from_checkpoint(root / "model.ckpt", view=view)
        assert model.hparams["view"] == model.view == view
        trainer = Trainer(**QUIET)
        scores[view] = trainer.validate(model, datamodule=data, verbose=False)[0]["val/loss"]
    assert scores["context"] != scores["post"]
    # A post that is given without context is the post alone, by either view.
    tagger = Tagger.from_checkpoint(root / "model.ckpt", device="cpu")
    post = data.examples("valid")[0]
    with pytest.warns(UserWarning, match="trained with context"):
        bare = tagger([Post(words=post.words)])[0]
    tagger.model.view = "post"
    assert tagger([Post(words=post.words, context=post.context[0])])[0].tags == bare.tags


def test_data_without_context_are_refused_before_training(tmp_path):
    data = SampleDataModule(str(tmp_path / "sample"), train=12)
    with pytest.raises(DataNotFoundError, match=r"no `context`: give it files of texts \(`mner caption`"):
        Trainer(max_steps=1, **QUIET).fit(CrossViewAlignment(data.labels), datamodule=data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "words"}, "Expected `kind` to be one of"),
        ({"view": "both"}, r"Expected `view` to be one of \('context', 'post'\), but got 'both'"),
        ({"temperature": 0.0}, "`temperature` above 0"),
        ({"weight": -1.0}, "`weight` of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        build(CrossViewAlignment, **options)


@pytest.mark.slow
def test_the_other_kind_and_view_hold_what_every_strategy_must():
    check_fusion(CrossViewAlignment, view="post", kind="sequence", temperature=1.0)
