from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mner.analysis.additive_projection import additive_projection
from mner.analysis.systems import ArgumentError
from mner.data import MNERDataset, Twitter2017DataModule
from mner.fusion import (
    CoAttention,
    Concatenation,
    FusionModule,
    TextOnly,
    TransformerAttention,
    UnifiedMultimodalTransformer,
    VisualAttention,
)
from mner.probing.conditions import context_conditions, derangement, image_conditions
from mner.probing.probe import probe, probe_command, restored_data
from mner.probing.runner import Runner

STRATEGIES = [Concatenation, VisualAttention, CoAttention, TransformerAttention, UnifiedMultimodalTransformer]


@pytest.fixture
def make(posts_folder, bert_folder):
    """A model with random weights, and its data: images, captions, or both."""

    def make(cls, images=True, context=False, **options):
        pl.seed_everything(0, verbose=False)
        seen = {"image_encoder": "test_resnet"} if images else {}
        weights = {**seen, "image_weights": None} if images else {}
        model = cls(Twitter2017DataModule.labels, text_encoder=bert_folder, **weights, **options).eval()
        data = Twitter2017DataModule(
            str(posts_folder),
            batch_size=4,
            text_encoder=bert_folder,
            images="images" if images else None,
            context=["captions.jsonl"] if context else None,
            **seen,
        )
        return model, data

    return make


def runner(model, data):
    return Runner(model, data, data.dataset("valid"))


def test_predictions_come_in_order_and_equal_the_models_own(make):
    model, data = make(VisualAttention, context=True)
    run = runner(model, data)
    found = run.predict(run.dataset)
    data.setup("validate")
    batches = [model.predict_step(batch, 0) for batch in data.val_dataloader()]
    own = {post.id: post for batch in batches for post in batch}
    assert [post.id for post in found] == [post.id for post in run.dataset.examples]
    for post in found:
        assert replace(post, entities=()) == replace(own[post.id], entities=())


@pytest.mark.parametrize("context", [False, True], ids=["images", "images and captions"])
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_pair_of_a_post_with_itself_is_the_model(make, cls, context):
    model, data = make(cls, context=context)
    run = runner(model, data)
    pairs = run.pairs(images=True, context=context)
    for post in range(len(run.dataset)):
        with torch.no_grad():
            item = run.collate(run.dataset)([run.dataset[post]])
            expected = model.emissions(item)[0]
        for found in pairs([post, post], [post, post]):
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pair_reads_one_post_with_the_others_image_and_caption(make):
    model, data = make(VisualAttention, context=True)
    run = runner(model, data)
    posts = run.dataset.examples
    mixed = [replace(posts[0], image_id=posts[4].image_id, context=posts[4].context)]
    with torch.no_grad():
        expected = model.emissions(run.collate(run.dataset)([run.variant(mixed)[0]]))[0]
    np.testing.assert_allclose(run.pairs(images=True, context=True)([0], [4])[0], expected, atol=2e-5)
    only_image = [replace(posts[0], image_id=posts[4].image_id)]
    with torch.no_grad():
        expected = model.emissions(run.collate(run.dataset)([run.variant(only_image)[0]]))[0]
    np.testing.assert_allclose(run.pairs(images=True, context=False)([0], [4])[0], expected, atol=2e-5)


def test_concatenation_is_additive_and_attention_is_not(make):
    # Concatenation gives W [word; characters; image]: a sum. So its projection must be itself.
    interaction = {}
    for cls in (Concatenation, VisualAttention):
        model, data = make(cls)
        found = additive_projection(runner(model, data).pairs(images=True, context=False), 6)
        interaction[cls] = found.interaction
        if cls is Concatenation:
            for one, two in zip(found.additive, found.model, strict=True):
                np.testing.assert_allclose(one, two, atol=1e-5)
    assert interaction[Concatenation] < 1e-6
    assert interaction[VisualAttention] > 1e-4


def test_decoding_emissions_gives_the_models_tags(make):
    model, data = make(Concatenation)
    run = runner(model, data)
    found = additive_projection(run.pairs(images=True, context=False), 6)
    assert run.decode(found.model) == [list(post.pred) for post in run.predict(run.dataset)]


def test_probe_of_images_and_captions(make):
    model, data = make(VisualAttention, context=True)
    found = probe(model, data, emap=4, repeats=2, resamples=20)
    table = found.table
    assert table["runs"].to_dict() == {
        "real": 1, "no image": 1, "blank image": 1, "shuffled images": 2, "noise for images": 2, "no context": 1,
        "shuffled context": 2, "noise for context": 2, "both shuffled": 2, "sample: real": 1, "sample: text + image": 1,
        "sample: text alone": 1,
    }  # fmt: skip
    assert table.loc["real", ["posts", "changed"]].tolist() == [6, 0]
    assert table.loc["sample: real", "posts"] == 4
    assert set(found.meanings) == set(table.index)
    # No image is what a post without image gets.
    run = runner(model, data)
    bare = run.variant([replace(post, image_id=None) for post in run.dataset.examples])
    assert [p.pred for p in found.predictions["no image"][0]] == [p.pred for p in run.predict(bare)]


def test_probe_of_stored_features(posts_folder, bert_folder):
    class Store(dict):
        width = 5

        def missing(self, image_ids):
            return [image_id for image_id in image_ids if image_id not in self]

    class Stored(Twitter2017DataModule):
        @property
        def store(self):
            # Post 12 has no image, the others one to three regions.
            rng = np.random.default_rng(0)
            return Store({f"1{row}": rng.normal(size=(row % 3 + 1, 5)).astype(np.float32) for row in (0, 1, 3, 4, 5)})

    data = Stored(str(posts_folder), batch_size=4, text_encoder=bert_folder)
    pl.seed_everything(0, verbose=False)
    model = VisualAttention(data.labels, text_encoder=bert_folder, region_width=5).eval()
    run = runner(model, data)
    for post in range(6):
        with torch.no_grad():
            expected = model.emissions(run.collate(run.dataset)([run.dataset[post]]))[0]
        np.testing.assert_allclose(run.pairs(images=True, context=False)([post], [post])[0], expected, atol=2e-5)
    table = probe(model, data, emap=3, repeats=1, resamples=20).table
    assert "noise for images" in table.index
    assert "sample: text alone" in table.index


def test_probe_of_captions_alone(make):
    model, data = make(TextOnly, images=False, context=True)
    table = probe(model, data, emap=None, repeats=1, resamples=20).table
    assert table.index.tolist() == ["real", "no context", "shuffled context", "noise for context"]


def test_text_alone_cannot_be_probed(make):
    model, data = make(TextOnly, images=False)
    with pytest.raises(ValueError, match="nothing to take away"):
        probe(model, data)


def test_model_that_ignores_its_images_is_found_out(make):
    class Deaf(VisualAttention):
        def fuse(self, words, word_mask, regions, region_mask):
            return words

    model, data = make(Deaf)
    found = probe(model, data, emap=6, repeats=1, resamples=20)
    assert found.table["changed"].max() == 0
    assert "does not use them" in " ".join(found.notes)


def test_derangement_moves_everything():
    rng = np.random.default_rng(0)
    orders = [tuple(derangement(4, rng)) for _ in range(900)]
    assert all(place != number for order in orders for number, place in enumerate(order))
    counts = Counter(orders)
    assert len(counts) == 9  # all derangements of four, about as often
    assert min(counts.values()) > 60
    with pytest.raises(ValueError, match="two posts"):
        derangement(1, rng)


def test_conditions_keep_what_they_do_not_take_away(make):
    _, data = make(VisualAttention, context=True)
    dataset = data.dataset("valid")
    rng = np.random.default_rng(0)
    for condition in [*image_conditions(dataset), *context_conditions()]:
        if condition.posts is None:
            continue
        changed = condition.posts(dataset.examples, rng)
        assert [(p.id, p.words, p.tags) for p in changed] == [(p.id, p.words, p.tags) for p in dataset.examples]
        if "image" in condition.name:
            assert [p.context for p in changed] == [p.context for p in dataset.examples]
        else:
            assert [p.image_id for p in changed] == [p.image_id for p in dataset.examples]
        if condition.name == "shuffled images":
            assert sorted(p.image_id for p in changed) == sorted(p.image_id for p in dataset.examples)
            assert all(a.image_id != b.image_id for a, b in zip(changed, dataset.examples, strict=True))
        if condition.name == "noise for context":
            words = {word for p in dataset.examples for text in p.context for word in text.split()}
            assert all(set(text.split()) <= words for p in changed for text in p.context)
            assert [len(p.context[0].split()) for p in changed] == [len(p.context[0].split()) for p in dataset.examples]


def test_pictures_and_features_are_filled_where_they_are(make):
    _, data = make(VisualAttention)
    dataset = data.dataset("valid")
    generator = torch.Generator().manual_seed(0)
    blank, noise = (c for c in image_conditions(dataset) if c.batch is not None)
    batch = {"image": torch.ones(2, 3, 4, 4), "has_image": torch.tensor([True, False])}
    assert blank.batch(batch, generator)["image"].flatten(1).sum(1).tolist() == [0, 48]
    noisy = noise.batch(batch, generator)["image"]
    assert noisy[0].std() > 0.5
    assert (noisy[1] == 1).all()
    # Stored features: mean and spread of the real ones.
    store = {post.image_id: np.full((2, 3), [1.0, 2.0, row]) for row, post in enumerate(dataset.examples)}
    stored = MNERDataset(dataset.examples, data.labels, data.post_tokenizer, regions=store)
    blank, noise = (c for c in image_conditions(stored) if c.batch is not None)
    batch = {"regions": torch.zeros(1, 500, 3), "region_mask": torch.arange(500)[None] < 499}
    filled = blank.batch(batch, generator)["regions"]
    assert filled[0, 0].tolist() == [1, 2, 2.5]
    assert filled[0, 499].tolist() == [0, 0, 0]
    noisy = noise.batch(batch, generator)["regions"][0, :499]
    assert noisy[:, 0].std() == 0
    assert float(noisy[:, 2].mean()) == pytest.approx(2.5, abs=0.4)
    assert float(noisy[:, 2].std()) == pytest.approx(np.std(range(6)), abs=0.3)


@pytest.fixture
def checkpoint(make, tmp_path):
    model, data = make(VisualAttention, context=True)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, num_sanity_val_steps=0, limit_val_batches=0, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    return tmp_path / "model.ckpt"


def test_command_on_a_checkpoint(checkpoint, posts_folder, tmp_path, capsys):
    model = FusionModule.load_from_checkpoint(checkpoint)
    for given, missing in (({"images": "images"}, "--context"), ({"context": ["captions.jsonl"]}, "--images")):
        with pytest.raises(ArgumentError, match=missing):
            restored_data(model, posts_folder, **given)
    code = probe_command(
        checkpoint, posts_folder, "valid", images="images", context=["captions.jsonl"], emap=3, repeats=1,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    for name in ("real", "shuffled images", "both shuffled", "sample: text alone"):
        assert f"\n{name} " in printed
    assert (tmp_path / "out" / "probe.csv").exists()
    assert "| shuffled images |" in (tmp_path / "out" / "probe.md").read_text()
