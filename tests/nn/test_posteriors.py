"""Label distributions in place of emissions: the maths against enumeration, and a mixture from training to tagging."""

import itertools
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data import Twitter2017DataModule
from mner.data.formats.predictions import read_predictions
from mner.data.tokenizer import PostTokenizer
from mner.encoders.text import TextEncoder
from mner.errors import CheckpointError
from mner.fusion import FusionModule, TextOnly
from mner.labels import Span, bio_labels, spans
from mner.nn import decode_posteriors, log_marginals, mix, span_scores
from mner.nn.crf import CRF
from mner.nn.masking import masked_mean
from mner.nn.posteriors import log_posteriors, posterior_crf
from mner.tagger.onnx import export_onnx
from mner.tagger.tagger import Tagger
from mner.training.trainer import Trainer

LABELS = bio_labels(["PER", "LOC"])
ALL = Twitter2017DataModule.labels
LENGTHS = [4, 1, 3]
MASK = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def random_crf(labels=LABELS):
    crf = CRF(len(labels), batch_first=True, labels=labels).double()
    for parameter in crf.parameters():
        nn.init.normal_(parameter)
    return crf


def random_posteriors(scale=2.0):
    return (scale * torch.randn(3, 4, 5, dtype=torch.float64)).softmax(-1)


def well_formed(words):
    """All label sequences that BIO allows."""
    for path in itertools.product(range(5), repeat=words):
        tags = [LABELS[label] for label in path]
        if spans(tags, "strict") == spans(tags, "lenient") and sum(tag != "O" for tag in tags) == sum(
            span.end - span.start for span in spans(tags, "strict")
        ):
            yield path


def test_log_marginals_are_those_of_the_crf():
    crf, emissions = random_crf(), 3 * torch.randn(3, 4, 5, dtype=torch.float64)
    found = log_marginals(crf, emissions, MASK).exp()
    torch.testing.assert_close(found[MASK], crf.marginals(emissions, MASK, constrained=False)[MASK])


def test_unconstrained_marginals_are_the_gradient_of_the_loss():
    crf, emissions = random_crf(), torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    tags = torch.randint(5, (3, 4))
    (-crf(emissions, tags, MASK)).backward()
    gold = nn.functional.one_hot(tags, 5).double().masked_fill(~MASK[..., None], 0.0)
    torch.testing.assert_close(emissions.grad, crf.marginals(emissions, MASK, constrained=False) - gold)
    free = CRF(5, batch_first=True).double()
    free.load_state_dict(crf.state_dict())
    assert torch.equal(crf.marginals(emissions, MASK, constrained=False), free.marginals(emissions, MASK))
    assert crf.marginals(emissions, MASK)[:, 0, 2::2].max() == 0


def test_gradient_of_log_marginals_equals_finite_differences():
    crf, emissions = random_crf(["O", "B-PER", "I-PER"]), torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)

    parameters = dict(crf.named_parameters())

    def real(emissions, *values):
        other = SimpleNamespace(**dict(zip(parameters, values, strict=True)))
        return log_marginals(other, emissions, MASK)[MASK]

    assert torch.autograd.gradcheck(real, (emissions, *parameters.values()))


def test_log_marginals_of_a_post_do_not_depend_on_its_neighbours():
    crf, emissions = random_crf(), torch.randn(3, 4, 5, dtype=torch.float64)
    together = log_marginals(crf, emissions.masked_fill(~MASK[..., None], torch.nan), MASK)
    for row, length in enumerate(LENGTHS):
        alone = log_marginals(crf, emissions[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0])


@pytest.mark.parametrize("from_crf", [True, False])
def test_decoding_equals_enumeration(from_crf):
    posteriors = random_posteriors()
    if from_crf:
        posteriors = random_crf().marginals(2 * torch.randn(3, 4, 5, dtype=torch.float64), MASK)
    found = decode_posteriors(posteriors, MASK, LABELS)
    for row, length in enumerate(LENGTHS):
        expected = max(
            well_formed(length), key=lambda path: sum(posteriors[row, t, y].log().item() for t, y in enumerate(path))
        )
        assert tuple(found[row]) == expected
    free = decode_posteriors(posteriors, MASK, LABELS, constrain=False)
    assert free == [posteriors[row, :length].argmax(-1).tolist() for row, length in enumerate(LENGTHS)]


def test_decoding_is_well_formed_whatever_is_ruled_out():
    posteriors = torch.zeros(1, 3, 5)
    posteriors[0, :, 2] = 1.0  # nothing but I-PER
    (path,) = decode_posteriors(posteriors, None, LABELS)
    assert tuple(path) in set(well_formed(3))
    assert [LABELS[label] for label in path[1:]] == ["I-PER", "I-PER"]


def test_span_scores_equal_enumeration():
    posteriors = random_posteriors(1.0)
    every = [[Span(s, e, t) for s in range(n) for e in range(s + 1, n + 1) for t in ("PER", "LOC")] for n in LENGTHS]
    found = span_scores(posteriors, MASK, LABELS, every)
    for row, length in enumerate(LENGTHS):
        weights = {
            path: torch.stack([posteriors[row, t, y] for t, y in enumerate(path)]).prod().item()
            for path in well_formed(length)
        }
        total = sum(weights.values())
        for span, score in zip(every[row], found[row], strict=True):
            has = [p for path, p in weights.items() if span in spans([LABELS[y] for y in path], "strict")]
            assert score == pytest.approx(sum(has) / total, rel=1e-9)


def test_mixtures():
    parts = [random_posteriors() for _ in range(3)]
    torch.testing.assert_close(mix(parts, [0.0, 1.0, 0.0]), parts[1])
    by_post = torch.rand(3, 3, dtype=torch.float64).softmax(-1)
    found = mix(parts, by_post)
    expected = sum(by_post[:, k, None, None] * part for k, part in enumerate(parts))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    torch.testing.assert_close(mix(parts, by_post[:, None].expand(-1, 4, -1)), found)
    torch.testing.assert_close(mix(parts, torch.tensor([0.2, 0.3, 0.5])), mix(parts, [0.2, 0.3, 0.5]))


def test_wrong_weights_are_refused():
    parts = [random_posteriors(), random_posteriors()]
    for weights in ([0.5, 0.6], [1.5, -0.5]):
        with pytest.raises(ValueError, match="sum to 1"):
            mix(parts, weights)
    with pytest.raises(ValueError, match="2 entries"):
        mix(parts, torch.ones(3))


def test_the_crf_without_transitions_costs_no_random_numbers_and_learns_nothing():
    posterior_crf.cache_clear()
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        crf = posterior_crf(tuple(LABELS))
    assert torch.equal(torch.random.get_rng_state(), state)
    p = random_posteriors().requires_grad_()
    tags = torch.randint(5, (3, 4))
    likelihood = crf(log_posteriors(p), tags, MASK, "none")  # made in inference, used in training
    expected = p.log().gather(-1, tags[..., None])[..., 0].masked_fill(~MASK, 0.0).sum(1)
    torch.testing.assert_close(likelihood, expected)
    likelihood.sum().backward()
    assert p.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in crf.parameters())


# A strategy


class Mixture(TextOnly):
    """Two heads on the same words, each with the CRF, mixed by a gate on the post."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.other = nn.Linear(self.width, len(self.labels))
        self.gate = nn.Linear(self.width, 2)

    def posterior(self, batch: Batch) -> Tensor | None:
        words, mask = self.encode(batch), batch["word_mask"]
        experts = [log_marginals(self.crf, head(self.dropout(words)), mask).exp() for head in (self.head, self.other)]
        return mix(experts, self.gate(masked_mean(words, mask)).softmax(-1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"tagging": self.posterior_nll(self.posterior(batch), batch)}


class Silent(TextOnly):
    def posterior(self, batch):
        return None


class Narrow(TextOnly):
    def posterior(self, batch):
        return torch.ones(1, 1, 1)


def lively(model):
    for name, parameter in model.named_parameters():
        if name.startswith(("head.weight", "other.weight", "crf")):
            nn.init.normal_(parameter, std=1.0)
    return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, posts_folder, bert_folder):
    pl.seed_everything(0, verbose=False)
    data = Twitter2017DataModule(str(posts_folder), batch_size=3, text_encoder=bert_folder)
    model = lively(Mixture(data.labels, text_encoder=bert_folder, learning_rate=1e-2)).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(max_epochs=8, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    path = tmp_path_factory.mktemp("mixture") / "model.ckpt"
    trainer.save_checkpoint(path)
    return path, data, model, before, dict(trainer.callback_metrics)


def test_all_of_a_mixture_learns_and_is_validated(trained):
    _, _, model, before, metrics = trained
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):  # cancels in the softmax
            assert not torch.equal(parameter, before[name]), name
    assert {"train/tagging_loss", "val/f1", "val/loss"} <= set(metrics)


def test_validation_scores_the_posterior(trained):
    path, data, *_ = trained
    model = FusionModule.load_from_checkpoint(path)
    assert type(model).__name__ == "Mixture"
    (found,) = Trainer(**QUIET).validate(model, datamodule=data, verbose=False)
    total, words = 0.0, 0
    with torch.no_grad():
        for batch in data.val_dataloader():
            mask = batch["word_mask"]
            gold = model.posterior(batch).gather(-1, batch["tags"][..., None])[..., 0]
            # Lightning averages over batches by their posts.
            total -= gold[mask].log().mean().item() * len(mask)
            words += len(mask)
    assert found["val/loss"] == pytest.approx(total / words, rel=1e-5)


def test_a_mixture_predicts_and_tags_by_its_posterior(trained, tmp_path):
    path, data, *_ = trained
    model = FusionModule.load_from_checkpoint(path)
    out = tmp_path / "predictions.jsonl"
    Trainer(**QUIET).predict(model, datamodule=data, output=str(out), split="test")
    posts = read_predictions(out).posts
    assert any(post.entities for post in posts)
    by_id = {post.id: post for post in posts}
    for batch in data.test_dataloader():
        with torch.no_grad():
            posterior = model.posterior(batch)
            paths = model(batch)
        assert paths == decode_posteriors(posterior, batch["word_mask"], model.labels)
        found = [spans([model.labels[label] for label in path]) for path in paths]
        scores = span_scores(posterior, batch["word_mask"], model.labels, found)
        for id_, its, of in zip(batch["id"], found, scores, strict=True):
            entities = by_id[id_].entities
            assert [entity[:3] for entity in entities] == [tuple(span) for span in its]
            assert [entity.score for entity in entities] == pytest.approx(of, abs=1e-4)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    for post in posts:
        (tagged,) = tagger([{"words": post.words}])
        assert list(tagged.tags) == list(post.pred)
        expected = [entity.score for entity in post.entities]
        assert [entity.score for entity in tagged] == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def batch(posts_folder, bert_folder):
    data = Twitter2017DataModule(str(posts_folder), batch_size=6, text_encoder=bert_folder)
    data.setup("test")
    (batch,) = data.test_dataloader()
    return batch


def test_posteriors_of_windows_are_put_together(bert_folder):
    tagger = Tagger(
        lively(Mixture(LABELS, text_encoder=bert_folder)), tokenizer=PostTokenizer(bert_folder, 12), device="cpu"
    )
    (found,) = tagger([{"words": [f"w{number % 7}" for number in range(23)]}])
    assert len(found.tags) == 23
    assert any(tag != "O" for tag in found.tags)
    assert spans(found.tags, "strict") == spans(found.tags, "lenient")
    assert all(0 < entity.score <= 1 for entity in found)


def test_without_a_posterior_the_crf_decodes(bert_folder, batch):
    plain = lively(TextOnly(ALL, text_encoder=bert_folder))
    assert plain.posterior(batch) is None
    assert not plain.decodes_posteriors
    assert plain.decoding_crf is plain.crf
    with torch.no_grad():
        assert torch.equal(plain.label_scores(batch), plain.emissions(batch))
        assert plain(batch) == plain.crf.decode(plain.emissions(batch), batch["word_mask"])


def test_none_in_place_of_a_posterior_means_the_marginals(bert_folder, batch):
    model = lively(Silent(ALL, text_encoder=bert_folder))
    with torch.no_grad():
        marginals = model.crf.marginals(model.emissions(batch), batch["word_mask"])
        assert model(batch) == decode_posteriors(marginals, batch["word_mask"], model.labels)


def test_a_posterior_of_another_shape_is_refused(bert_folder, batch):
    with pytest.raises(ValueError, match=r"Narrow\.posterior.*\(1, 1, 1\)"):
        Narrow(ALL, text_encoder=bert_folder)(batch)


def test_a_mixture_is_not_exported_as_a_graph_of_scores(bert_folder, tmp_path):
    pytest.importorskip("onnxscript")
    tagger = Tagger(Mixture(LABELS, text_encoder=bert_folder), tokenizer=PostTokenizer(bert_folder), device="cpu")
    with pytest.raises(CheckpointError, match="Mixture has its own `posterior`"):
        export_onnx(tagger, tmp_path)


# What schedules and further encoders need


class Scheduled(TextOnly):
    """Notes how far training is, and has a second encoder."""

    def __init__(self, *args, second="tiny", **kwargs):
        super().__init__(*args, **kwargs)
        self.second = TextEncoder(second)
        self.seen: list[float] = []

    @property
    def pretrained(self) -> list[nn.Module]:
        return [*super().pretrained, self.second]

    def losses(self, batch):
        self.seen.append(self.progress)
        states = self.second(batch["token_ids"], batch["token_mask"], batch["segment_ids"])
        return {**super().losses(batch), "second": states.mean()}


@pytest.fixture
def scheduled(posts_folder, bert_folder):
    data = Twitter2017DataModule(str(posts_folder), batch_size=2, text_encoder=bert_folder)
    model = Scheduled(
        data.labels, text_encoder=bert_folder, second=bert_folder, learning_rate=1e-4, head_learning_rate=1e-2
    )
    return model, data


def test_progress_runs_from_0_to_1(scheduled):
    model, data = scheduled
    assert model.progress == 0.0
    trainer = Trainer(max_epochs=2, accumulate_grad_batches=3, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2
    assert model.seen == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert model.progress == 1.0
    Trainer(**QUIET).validate(model, datamodule=data, verbose=False)
    assert model.progress == 0.0


def test_a_further_encoder_learns_at_the_rate_of_the_encoders(scheduled):
    model, data = scheduled
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    groups = trainer.optimizers[0].param_groups
    rates = {id(parameter): group["initial_lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 1e-4 if name.startswith(("text_encoder", "second")) else 1e-2
        assert rates[id(parameter)] == expected, name
