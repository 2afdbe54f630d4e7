"""Strategies that need more than regions: served, refused, trained, saved, tagged with."""

import json
import shutil
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mner.cli import main
from mner.data import SampleDataModule, Twitter2017DataModule
from mner.data.formats.context import read_context
from mner.data.formats.images import ImageFolder
from mner.data.recipe import check_inputs
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError
from mner.fusion import FusionModule, TextOnly
from mner.preprocessing.features import features
from mner.preprocessing.objects import objects
from mner.probing.runner import Runner
from mner.tagger.onnx import export_onnx
from mner.tagger.post import Post
from mner.tagger.sections import Section
from mner.tagger.tagger import Tagger
from mner.testing import CHECKS, check_fusion
from mner.training import Trainer
from tests import needy_fusions as needy
from tests.tiny_sets import WIDTH, write_regions, write_twitter

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
SEEN = {"image_encoder": "test_resnet", "image_weights": None}
FIELDS = {
    "boxes": "region_boxes", "scores": "region_scores", "object_names": "object_names", "relation": "relation",
    "groups": "region_group",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The sample data, with regions as `mner features` stores them."""
    root = tmp_path_factory.mktemp("needs") / "sample"
    sample(root).prepare_data()
    features(root / "images", root.parent / "random", regions="random", top_k=3, device="cpu", num_workers=0)
    options = {"encoder": "test_resnet", "weights": "random", "image_size": 64, "device": "cpu", "num_workers": 0}
    features(root / "images", root.parent / "grid", **options)
    features(root / "images", root.parent / "crops", regions="random", crops=2, pyramid=True, **options)
    return root


def sample(root, **options):
    return SampleDataModule(str(root), train=24, batch_size=8, **options)


def images(root, bert):
    return sample(root, text_encoder=bert, images="images", image_encoder="test_resnet", image_size=64)


def stored(root, bert, name="random"):
    return sample(root, text_encoder=bert, features=str(root.parent / name) if name != "objects" else name)


def fit(cls, data, bert, path, **options):
    pl.seed_everything(0, verbose=False)
    if data.region_width:
        options["region_width"] = data.region_width
    model = cls(data.labels, text_encoder=bert, **options)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    trainer = Trainer(max_steps=2, limit_val_batches=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path)
    return trainer


NEEDY = [needy.Boxed, needy.Scored, needy.Named, needy.Related, needy.Grouped, needy.Placed, needy.Plain]


@pytest.mark.parametrize("kind", ["images", "random", "grid", "crops", "objects"])
def test_trained_saved_and_loaded_with_every_kind_of_regions(kind, root, bert_folder, tmp_path):
    data = images(root, bert_folder) if kind == "images" else stored(root, bert_folder, kind)
    trainer = fit(needy.Placed, data, bert_folder, tmp_path / "model.ckpt", **(SEEN if kind == "images" else {}))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    loaded = FusionModule.load_from_checkpoint(tmp_path / "model.ckpt")
    again = images(root, bert_folder) if kind == "images" else stored(root, bert_folder, kind)
    batches = [next(iter(one.val_dataloader())) for one in (data, _ready(again, loaded))]
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval().emissions(batches[0]), loaded.emissions(batches[1]))


def _ready(data, model):
    data.serve(model)
    data.setup("validate")
    return data


@pytest.mark.parametrize("cls", NEEDY)
def test_batches_carry_what_is_needed_and_no_more(cls, root, bert_folder):
    for data in (images(root, bert_folder), stored(root, bert_folder)):
        options = SEEN if data.images else {"region_width": data.region_width}
        model = cls(data.labels, text_encoder=bert_folder, **options)
        check_inputs(model, data)
        data.setup("validate")
        batch = next(iter(data.val_dataloader()))
        assert set(FIELDS.values()) & set(batch) == {FIELDS[need] for need in cls.needs}
        r = model.raw_regions(batch)[1].shape[1]
        assert all(len(batch[FIELDS[need]][0]) == r for need in cls.needs - {"relation", "object_names"})


def test_boxes_are_those_of_the_store(root, bert_folder):
    data = stored(root, bert_folder, "objects")
    batch = next(iter(_ready(data, needy.Placed(data.labels, "tiny", region_width=192)).val_dataloader()))
    for row, key in enumerate(batch["image_id"]):
        if key not in data.store:
            assert not batch["region_boxes"][row].any()
            continue
        r = len(data.store[key])
        np.testing.assert_array_equal(batch["region_boxes"][row, :r], data.store.places(key))
        assert batch["object_names"][row][:r] == data.store.names(key)
        assert float(batch["relation"][row]) in (0.0, 1.0)


def test_checked_as_any_other(monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")
    check_fusion(needy.Placed, hidden_size=16)


# Tagging


@pytest.mark.parametrize("kind", ["images", "random", "grid", "crops"])
def test_new_posts_are_seen_as_those_of_the_training(kind, root, bert_folder, tmp_path):
    data = images(root, bert_folder) if kind == "images" else stored(root, bert_folder, kind)
    fit(needy.Placed, data, bert_folder, tmp_path / "model.ckpt", **(SEEN if kind == "images" else {}))
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    folder = ImageFolder(root / "images")
    posts = data.datasets["valid"].examples[:12]
    batch = data.collate(data.datasets["valid"])([data.datasets["valid"][row] for row in range(12)])
    with torch.no_grad():
        expected = tagger.model.emissions(batch)
    given = [
        Post(
            words=list(post.words),
            image=folder.find(post.image_id) if post.image_id in folder else None,
            relation=None if batch["relation"][row].isnan() else float(batch["relation"][row]),
            object_names=[name for name in batch["object_names"][row] if name] if kind in ("images", "grid") else None,
        )
        for row, post in enumerate(posts)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sections = tagger.prepare(given)
    items = [
        item
        for one in sections
        for item in tagger.decoder.items(Section(0, one.words, one.context, one.seen, one.object_names, one.relation))
    ]
    with torch.no_grad():
        found = tagger.model.emissions(tagger.decoder.batch(items))
    mask = batch["word_mask"]
    torch.testing.assert_close(found[mask], expected[mask], atol=2e-3, rtol=1e-3)
    tagged = tagger(given)
    assert [len(one.tags) for one in tagged] == [len(post.words) for post in posts]
    assert any(one.has_image for one in tagged)


@pytest.mark.parametrize("cls", NEEDY[:-2])
def test_each_need_alone_is_trained_and_tagged_with(cls, root, bert_folder, tmp_path):
    fit(cls, stored(root, bert_folder), bert_folder, tmp_path / "model.ckpt")
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    picture = next(iter((root / "images").iterdir()))
    found = tagger([Post("so proud of Quillon", image=picture, relation=1.0), Post("hello")])
    assert [(one.has_image, len(one.tags)) for one in found] == [(True, 4), (False, 1)]


def test_a_post_without_what_is_needed_is_told_of_once(root, bert_folder, tmp_path):
    data = images(root, bert_folder)
    fit(needy.Placed, data, bert_folder, tmp_path / "model.ckpt", **SEEN)
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    picture = next(iter((root / "images").iterdir()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tagger("so proud of Quillon", image=picture)
        tagger("so proud of Quillon", image=picture)
    messages = [str(one.message) for one in told]
    assert sum("give `object_names`" in message for message in messages) == 1
    assert sum("give `relation`" in message for message in messages) == 1


def test_names_from_a_context_called_tags_without_images(root, bert_folder, tmp_path):
    data = sample(root, text_encoder=bert_folder, context=["tags.jsonl"])
    fit(needy.NamesInText, data, bert_folder, tmp_path / "model.ckpt")
    batch = next(iter(data.val_dataloader()))
    texts = {post.id: post.context[0] for post in data.datasets["valid"].examples}
    assert [", ".join(filter(None, names)) for names in batch["object_names"]] == [texts[id_] for id_ in batch["id"]]
    assert any(batch["object_names"][0])
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    prepared = tagger.prepare([Post("so proud of Quillon", context="dog, red car")])
    assert prepared[0].object_names == ("dog", "red car")
    assert len(tagger("so proud of Quillon", context="dog, cup").tags) == 4


# Refusals


@pytest.fixture(scope="module")
def tweets(tmp_path_factory):
    root = write_twitter(tmp_path_factory.mktemp("tweets") / "twitter")
    shutil.rmtree(root / "regions")
    write_regions(root / "regions", [root / "images"], sizes=False)  # an older store
    return root


def model_of(cls, **options):
    return cls(Twitter2017DataModule.labels, **options)


@pytest.mark.parametrize(
    ("cls", "options", "error", "advice"),
    [
        (needy.Boxed, {"features": "regions"}, DataFormatError, "Extract again .*`mner features"),
        (needy.Named, {"images": "images", **SEEN}, DataNotFoundError, "needs object_names.*`mner features --regions"),
        (needy.NamesInText, {}, DataNotFoundError, "needs object_names.*`object_names`, a file"),
        (needy.Related, {"features": "regions"}, DataNotFoundError, "needs relation.*`relations`, a.*mner relations"),
        (needy.Related, {"features": "regions", "relations": "none.tsv"}, DataNotFoundError, "No relations at"),
        (needy.Named, {"features": "regions", "object_names": "none.jsonl"}, DataNotFoundError, "none.jsonl"),
        (needy.Misspelt, {"features": "regions"}, ValueError, r"Misspelt needs \['box'\]; expected some of"),
        (needy.Boxed, {}, DataNotFoundError, "uses images, but Twitter2017DataModule has none"),
    ],
)
def test_data_that_lack_it_are_refused_before_training(cls, options, error, advice, tweets):
    options = dict(options)
    own = {key: options.pop(key) for key in ("image_encoder", "image_weights") if key in options}
    encoder = {"image_encoder": own["image_encoder"]} if own else {}
    data = Twitter2017DataModule(str(tweets), **options, **encoder)
    model = model_of(cls, **(own or ({"region_width": WIDTH} if cls.uses_image else {})))
    with pytest.raises(error, match=advice) as caught:
        Trainer(max_steps=1, enable_checkpointing=False, **QUIET).fit(model, datamodule=data)
    assert "\n" not in str(caught.value)


def test_an_older_store_serves_what_it_can(tweets):
    data = Twitter2017DataModule(str(tweets), features="regions")
    for cls in (needy.Scored, needy.Named, needy.Grouped, needy.Plain):
        check_inputs(model_of(cls, region_width=WIDTH), data)


def test_text_alone_needs_nothing(tweets):
    data = Twitter2017DataModule(str(tweets))
    check_inputs(model_of(TextOnly), data)
    assert data.needs == frozenset()
    assert TextOnly.needs == frozenset()
    assert TextOnly.region_order_matters is False


def test_a_file_of_names_is_read_and_a_bad_relation_named(tweets):
    (tweets / "names.jsonl").write_text(json.dumps({"image_id": "1000.jpg", "text": "tree, dog"}) + "\n")
    (tweets / "bad.tsv").write_text("1000\t2\n")
    data = Twitter2017DataModule(str(tweets), features="regions", object_names="names.jsonl")
    _ready(data, model_of(needy.Named, region_width=WIDTH))
    batch = next(iter(data.val_dataloader()))
    names = dict(zip(batch["id"], batch["object_names"], strict=True))
    assert names["1000"][:2] == ["tree", "dog"]
    assert set(names["1001"]) == {""}
    bad = Twitter2017DataModule(str(tweets), features="regions", relations="bad.tsv")
    with pytest.raises(DataFormatError, match=r"bad.tsv:1: .*the value 2 of image '1000'"):
        check_inputs(model_of(needy.Related, region_width=WIDTH), bad)


def test_a_file_that_knows_no_post_is_refused_and_one_that_knows_some_told_of(tweets, caplog):
    (tweets / "names.jsonl").write_text(json.dumps({"image_id": "1000.jpg", "text": "tree, dog"}) + "\n")
    (tweets / "some.tsv").write_text("0000\t0.5\n1000\t1\n1001\t0\n")
    data = Twitter2017DataModule(str(tweets), features="regions", object_names="names.jsonl", relations="some.tsv")
    _ready(data, model_of(needy.Placed, region_width=WIDTH))
    data.setup("fit")
    posts = len(data.datasets["valid"])
    data.val_dataloader()
    data.val_dataloader()
    told = [record.getMessage() for record in caplog.records]
    assert told.count(f"valid: {posts - 1} of {posts} posts have no text in object_names names.jsonl") == 1
    assert told.count(f"valid: {posts - 2} of {posts} posts have no value in relations some.tsv") == 1
    with pytest.raises(DataNotFoundError, match=rf"names.jsonl has a text for none of the {posts} train posts"):
        data.train_dataloader()
    (tweets / "other.tsv").write_text("17_06_1\t0.5\n")
    other = Twitter2017DataModule(str(tweets), features="regions", relations="other.tsv")
    _ready(other, model_of(needy.Related, region_width=WIDTH))
    with pytest.raises(DataNotFoundError, match=rf"other.tsv has a value for none of the {posts} train posts"):
        other.train_dataloader()
    other.val_dataloader()  # training alone may have been labelled
    assert f"valid: none of {posts} posts has a value in relations other.tsv" in caplog.text


def test_names_of_a_classifier_serve(root, bert_folder, tmp_path):
    """By the one command that makes them, from a detector or from ImageNet's classes; to train, and to tag with."""
    objects(root / "images", root / "classes.jsonl", "test_resnet", "random", min_score=0, device="cpu", num_workers=0)
    data = images(root, bert_folder)
    data.object_names = "classes.jsonl"
    fit(needy.Named, data, bert_folder, tmp_path / "model.ckpt", **SEEN)
    batch = next(iter(data.val_dataloader()))
    texts = read_context(root / "classes.jsonl")
    for post_image, names in zip(batch["image_id"], batch["object_names"], strict=True):
        if post_image in texts:
            assert list(filter(None, names)) == texts[post_image].split(", ")
    assert any(any(names) for names in batch["object_names"])
    picture = next(iter((root / "images").iterdir())).name
    post = {"id": "1", "text": "so proud of Quillon", "image": picture, "object_names": texts[picture].split(", ")}
    (tmp_path / "posts.jsonl").write_text(json.dumps(post) + "\n")
    out = tmp_path / "tagged.jsonl"
    arguments = [str(tmp_path / "posts.jsonl"), "--checkpoint", str(tmp_path / "model.ckpt"), "--device", "cpu"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert main(["tag", *arguments, "--images", str(root / "images"), "--output", str(out)]) == 0
    assert not [one for one in told if "object_names" in str(one.message)]
    (tagged,) = (json.loads(line) for line in out.read_text().splitlines())
    assert tagged["object_names"] == post["object_names"]
    assert "error" not in tagged


def test_a_graph_has_no_inputs_for_it(root, bert_folder, tmp_path):
    fit(needy.Boxed, stored(root, bert_folder), bert_folder, tmp_path / "model.ckpt")
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    with pytest.raises(CheckpointError, match="Boxed needs boxes, for which a graph has no inputs"):
        export_onnx(tagger, tmp_path / "onnx")


# Probing


@pytest.mark.parametrize("kind", ["images", "objects"])
def test_a_probe_brings_it_too(kind, root, bert_folder):
    data = images(root, bert_folder) if kind == "images" else stored(root, bert_folder, kind)
    options = SEEN if kind == "images" else {"region_width": data.region_width}
    model = needy.Placed(data.labels, text_encoder=bert_folder, **options).eval()
    run = Runner(model, data, data.dataset("valid"))
    batch = run.collate(run.dataset)([run.dataset[row] for row in range(6)])
    with torch.no_grad():
        expected = model.emissions(batch)
    paired = run.pairs(images=True, context=False)(range(6), range(6))
    for row, emissions in enumerate(paired):
        torch.testing.assert_close(torch.from_numpy(emissions), expected[row, : len(emissions)], atol=1e-4, rtol=1e-4)
    other = run.pairs(images=True, context=False)([0] * 6, range(6))
    assert any(not np.allclose(other[0], one) for one in other[1:])
    variant = run.variant([run.dataset.examples[0]])
    assert variant[0]["relation"] == run.dataset[0]["relation"]
