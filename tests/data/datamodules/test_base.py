"""Data modules: every rule about data, as a training run meets it."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mner.data import SampleDataModule, SnapchatDataModule, Twitter2015DataModule, Twitter2017DataModule
from mner.data.examples import fingerprint
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError, DataNotFoundError
from mner.fusion import VisualAttention
from mner.labels import bio_labels
from tests.conftest import WORDS, write_posts
from tests.tiny_sets import (
    SPLITS,
    WIDTH,
    copy_of,
    write_images,
    write_lines,
    write_regions,
    write_snapchat,
    write_twitter,
)

IMAGES = {"images": "images", "image_encoder": "test_resnet", "image_size": 32}


@pytest.fixture(scope="module")
def twitter(tmp_path_factory):
    return write_twitter(tmp_path_factory.mktemp("twitter"))


@pytest.fixture(scope="module")
def snapchat(tmp_path_factory):
    return write_snapchat(tmp_path_factory.mktemp("snapchat"))


@pytest.fixture
def make(twitter, bert_folder):
    def make(cls=Twitter2017DataModule, root=twitter, **options):
        return cls(str(root), batch_size=4, text_encoder=bert_folder, **options)

    return make


def batches(data, split="train"):
    data.setup({"train": "fit", "valid": "validate", "test": "test"}[split])
    loader = {"train": data.train_dataloader, "valid": data.val_dataloader, "test": data.test_dataloader}[split]()
    return list(loader)


def by_id(batches, field):
    return {id_: value for batch in batches for id_, value in zip(batch["id"], batch[field], strict=True)}


# The data sets


@pytest.mark.parametrize(
    ("cls", "other"), [(Twitter2015DataModule, "OTHER"), (Twitter2017DataModule, "MISC")], ids=["2015", "2017"]
)
def test_twitter(make, tmp_path, cls, other):
    root = write_twitter(tmp_path / "data", other=other)
    data = make(cls, root, context=["captions.jsonl"], **IMAGES)
    assert cls.labels == bio_labels(["PER", "LOC", "ORG", other])
    for split in SPLITS:
        found = batches(data, split)
        words, tags = by_id(found, "words"), by_id(found, "tags")
        assert len(words) == len(WORDS)
        for row, (expected, gold) in enumerate(WORDS):
            id_ = f"{SPLITS.index(split)}{row:03d}"
            assert words[id_] == tuple(expected)
            named = [data.labels[index] for index in tags[id_][: len(expected)]]
            assert named == [tag.replace("MISC", other) for tag in gold]
        assert all(batch["image"].shape[1:] == (3, 32, 32) for batch in found)
        assert all(batch["segment_ids"].any(1).all() for batch in found), "each post has its caption"


def test_snapchat(make, snapchat):
    data = make(SnapchatDataModule, snapchat, context=["captions/*_image_captions.json"], **IMAGES)
    for split in SPLITS:
        found = batches(data, split)
        assert sum(len(batch["id"]) for batch in found) == len(WORDS)
        has_image = by_id(found, "has_image")
        assert [bool(has_image[id_]) for id_ in sorted(has_image)] == [True, True, False, False, True, True]
        assert all(batch["segment_ids"].any(1).all() for batch in found)


def test_snapchat_images_by_an_absolute_path_or_from_another_folder(make, snapchat, monkeypatch):
    expected = by_id(batches(make(SnapchatDataModule, snapchat, **IMAGES)), "has_image")
    options = {**IMAGES, "images": str(snapchat / "images")}
    monkeypatch.chdir(snapchat.parent)
    assert by_id(batches(make(SnapchatDataModule, snapchat.name, **options)), "has_image") == expected
    assert sum(map(bool, expected.values())) == 4


def test_snapchat_with_types_of_ones_own(make, snapchat, tmp_path):
    root = copy_of(snapchat, tmp_path / "data")
    for file in (root / "texts").iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace("-MISC", "-OTHER"), encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"tags \['B-OTHER'\].*give `types` to SnapchatDataModule"):
        batches(make(SnapchatDataModule, root))
    types = ["PER", "LOC", "ORG", "OTHER"]
    data = make(SnapchatDataModule, root, types=types)
    assert batches(data)
    assert data.labels == bio_labels(types)
    assert SnapchatDataModule.labels == bio_labels(["PER", "LOC", "ORG", "MISC"]), "the class keeps its own"
    assert data.describe()["labels"] == data.labels


def test_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("MNER_CACHE", str(tmp_path / "cache"))
    data = SampleDataModule(train=20, batch_size=8, **IMAGES)
    found = batches(data)
    assert (tmp_path / "cache").is_dir()
    assert len(by_id(found, "id")) == 20
    assert sum(map(bool, by_id(found, "has_image").values())) >= 15
    elsewhere = SampleDataModule(str(tmp_path / "other"), train=20, batch_size=8)
    elsewhere.setup("fit")
    assert elsewhere.fingerprints == data.fingerprints
    other = SampleDataModule(str(tmp_path / "seed"), train=20, sample_seed=1)
    other.setup("fit")
    assert other.fingerprints != data.fingerprints


def test_quirks_of_real_files_load(make, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for split, end in (("train", ""), ("valid", "\n"), ("test", "\n\n")):
        long = ["Dr\tO", "Seuss\tI-PER", "\u00a0\tO", "\ufe0f\tO"]
        lines = [f"IMGID:{split}1", *long, "", f"IMGID:{split}2", "Bo\tB-PER"]
        (root / f"{split}.txt").write_bytes(b"\xef\xbb\xbf" + ("\r\n".join(lines) + end).encode())
    (batch,) = batches(make(root=root))
    assert sorted(batch["words"]) == [("Bo",), ("Dr", "Seuss", "\u00a0", "\ufe0f")]
    row = batch["id"].index("train1")
    assert [make().labels[index] for index in batch["tags"][row]] == ["O", "I-PER", "O", "O"]
    assert len(set(batch["word_starts"][row].tolist())) == 4, "a word without pieces has a place of its own"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("IMGID:1\nAnna\tPER\n", "PER"),
        ("IMGID:1\nAnna\n", "Anna"),
        ("Anna\tB-PER\n\nIMGID:1\nBo\tO\n", "Anna"),
        ("IMGID:1\nAnna\tO\n\nIMGID:1\nAnna\tO\n", "1"),
        ("", "empty"),
    ],
    ids=["bad tag", "no tag", "no image id", "id twice", "empty"],
)
def test_what_must_not_load_does_not(make, twitter, tmp_path, text, found):
    root = copy_of(twitter, tmp_path / "data")
    (root / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"train\.txt") as error:
        make(root=root).setup("fit")
    assert found in str(error.value)


def test_missing_splits_and_folders(make, twitter, tmp_path):
    root = copy_of(twitter, tmp_path / "data")
    (root / "test.txt").unlink()
    data = make(root=root)
    data.setup("fit")
    with pytest.raises(DataNotFoundError, match="No test split"):
        data.setup("test")
    with pytest.raises(DataNotFoundError, match="there is none at"):
        make(root=tmp_path / "nowhere").setup("fit")


@pytest.mark.parametrize(("one", "other"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_splits_that_overlap_are_refused(make, twitter, tmp_path, one, other):
    root = copy_of(twitter, tmp_path / "data")
    with (root / f"{other}.txt").open("a", encoding="utf-8") as file:
        file.write("\n" + (root / f"{one}.txt").read_text(encoding="utf-8"))
    data = make(root=root, train_fraction=0.5)  # of the training posts that are left out, too
    with pytest.raises(DataFormatError, match=f"6 posts in both {one} and {other}"):
        data.setup("fit")
    if other == "test":
        with pytest.raises(DataFormatError, match=f"6 posts in both {one} and {other}"):
            make(root=root).setup("test")


# Images and features


def test_missing_images_are_counted_before_and_broken_ones_after(make, caplog):
    data = make(**IMAGES)
    caplog.set_level(logging.INFO)
    data.setup("fit")
    assert "train: 1 of 6 posts have no image (1 missing)" in caplog.text
    assert "valid: 1 of 6 posts have no image (1 missing)" in caplog.text
    caplog.clear()
    for batch in data.train_dataloader():
        data.on_before_batch_transfer(batch, 0)
    assert data.broken_images == {"0003"}
    data.teardown("fit")
    assert "1 image files could not be read (0003)" in caplog.text
    caplog.clear()
    data.teardown("fit")
    assert caplog.text == "", "said once"


def test_a_run_reports_broken_images(make, bert_folder, caplog):
    data = make(**IMAGES)
    module = VisualAttention(data.labels, text_encoder=bert_folder, image_encoder="test_resnet", image_weights=None)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert "2 image files could not be read (0003, 1003)" in caplog.text


def test_a_folder_without_any_of_the_images_is_refused(make, tmp_path):
    write_images(tmp_path / "images", ["somebody", "else"])
    with pytest.raises(DataNotFoundError, match=r"none of the images of the 6 train posts \(6 missing\)"):
        make(**{**IMAGES, "images": str(tmp_path / "images")}).setup("fit")
    write_regions(tmp_path / "regions", [tmp_path / "images"])
    with pytest.raises(DataNotFoundError, match=r"\(6 never extracted\).*mner features"):
        make(features=str(tmp_path / "regions")).setup("fit")


def test_broken_and_never_extracted_features_are_told_apart(make, twitter, caplog):
    make(features="regions").setup("fit")
    # Of post 3 the store knows that its image is no image; of post 2 there never was one.
    assert "train: 2 of 6 posts have no image (1 broken when they were extracted, 1 never extracted)" in caplog.text
    data = make(features="regions")
    has_image = by_id(batches(data), "has_image")
    assert [bool(has_image[id_]) for id_ in sorted(has_image)] == [True, True, False, False, True, True]


def test_features_are_those_of_the_store(make, twitter):
    data = make(features="regions")
    store = FeatureStore(twitter / "regions")
    assert data.region_width == WIDTH
    for batch in batches(data):
        for id_, regions, mask in zip(batch["id"], batch["regions"], batch["region_mask"], strict=True):
            expected = store[id_] if id_ in store else np.zeros((0, WIDTH))
            assert mask.sum() == len(expected)
            np.testing.assert_array_equal(regions[mask].numpy(), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_travel_as_they_are_stored(make, tmp_path, bert_folder, dtype):
    """Half as much to copy to the device; the model computes in its own precision, with the same outcome."""
    generator = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "store", kind="grid", encoder="x", width=5, dtype=dtype) as writer:
        writer.append([f"000{row}" for row in range(5)], list(generator.normal(size=(5, 4, 5))))
        writer.append(["1000"], [generator.normal(size=(4, 5))])
        writer.finish()
    data = make(features=str(tmp_path / "store"))
    module = VisualAttention(data.labels, text_encoder=bert_folder, region_width=5).eval()
    for batch in batches(data):
        assert batch["regions"].dtype == getattr(torch, dtype)
        plain = {**batch, "regions": batch["regions"].float()}
        assert torch.equal(module.emissions(batch), module.emissions(plain))
        module.losses(batch)["tagging"].backward()
    assert module.no_image.grad.dtype == torch.float32


def test_images_or_features_not_both(make):
    with pytest.raises(ValueError, match="`images` or `features`, but got both"):
        make(features="regions", **IMAGES)
    with pytest.raises(ValueError, match="without `image_encoder`"):
        make(images="images")
    with pytest.raises(DataNotFoundError, match="No images at"):
        make(**{**IMAGES, "images": "nowhere"}).setup("fit")


# Context


def test_context_of_a_pattern_is_one_source(make, snapchat):
    data = make(SnapchatDataModule, snapchat, context=["captions/*.json"])
    data.setup("fit")
    assert all(len(post.context) == 1 for post in data.datasets["train"].examples)
    twice = make(SnapchatDataModule, snapchat, context=["captions/*.json", "captions/train_*.json"])
    assert [post.context for post in twice.examples("train")] == [
        (f"{len(words)} things",) * 2 for words, _ in WORDS
    ]  # fmt: skip


def test_posts_without_a_text_are_counted(make, twitter, tmp_path, caplog):
    write_lines(tmp_path / "some.jsonl", [{"image_id": "0000", "caption": "a"}, {"image_id": "1001", "caption": "b"}])
    make(context=[str(tmp_path / "some.jsonl")]).setup("fit")
    assert "train: 5 of 6 posts have no text in" in caplog.text
    assert "valid: 5 of 6 posts have no text in" in caplog.text
    with pytest.raises(DataNotFoundError, match="a text for none of the 6 test posts"):
        make(context=[str(tmp_path / "some.jsonl")]).setup("test")
    with pytest.raises(DataNotFoundError, match="No context file matches"):
        make(context=["captions/*.txt"]).setup("fit")


def test_context_is_cut_before_the_post(make, tmp_path):
    write_lines(
        tmp_path / "long.jsonl",
        [{"image_id": f"{n}{row:03d}", "text": "word " * 50} for n in (0, 1) for row in range(6)],
    )
    plain = by_id(batches(make(max_length=60)), "token_ids")
    found = batches(make(max_length=60, context=[str(tmp_path / "long.jsonl")]))
    for batch in found:
        assert batch["token_mask"].sum(1).max() <= 60
        for id_, ids, segments in zip(batch["id"], batch["token_ids"], batch["segment_ids"], strict=True):
            post = ids[segments == 0]
            length = int((plain[id_] != 0).sum())
            assert post[:length].tolist() == plain[id_][:length].tolist()
    assert {len(words) for words in by_id(found, "words").values()} == {len(words) for words, _ in WORDS}


def test_context_is_dropped_in_training_only(make):
    data = make(context=["captions.jsonl"], context_dropout=1.0)
    assert not any(batch["segment_ids"].any() for batch in batches(data))
    assert all(batch["segment_ids"].any(1).all() for batch in batches(data, "valid"))


# Parts, seeds, repair


def test_smaller_parts_are_parts_of_larger_ones(make, tmp_path):
    root = write_twitter(tmp_path / "data", count=40)

    def part(fraction, seed=0):
        data = make(root=root, train_fraction=fraction, seed=seed)
        data.setup("fit")
        assert len(data.datasets["valid"]) == 40, "valid is always whole"
        return [post.id for post in data.datasets["train"].examples]

    small, half, whole = part(0.2), part(0.5), part(1.0)
    assert (len(small), len(half), len(whole)) == (8, 20, 40)
    assert set(small) < set(half) < set(whole)
    assert half == sorted(half), "in file order"
    assert part(0.2) == small
    assert set(part(0.2, seed=1)) != set(small)
    with pytest.raises(ValueError, match="`train_fraction`"):
        make(train_fraction=0.0)


def test_the_seed_of_the_run_is_the_seed_of_the_data(make, tmp_path):
    root = write_twitter(tmp_path / "data", count=40)

    def order(run, **options):
        pl.seed_everything(run, verbose=False)
        return [id_ for batch in batches(make(root=root, **options)) for id_ in batch["id"]]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1, seed=5) == order(2, seed=5)
    assert order(1) == order(7, seed=1)


def test_repair_touches_the_training_split_only(make):
    def tags(data, split, row=3):
        found = by_id(batches(data, split), "tags")[f"{SPLITS.index(split)}{row:03d}"]
        return [data.labels[index] for index in found[: len(WORDS[row][0])]]

    stray, repaired = ["O", "O", "I-PER", "O"], ["O", "O", "B-PER", "O"]
    assert [tags(make(), split) for split in SPLITS] == [stray, stray, stray]
    assert [tags(make(repair_iob="i_to_b"), split) for split in SPLITS] == [repaired, stray, stray]


def test_fingerprints_are_of_the_files(make, twitter):
    expected = {split: fingerprint(read_posts(twitter / f"{split}.txt")) for split in SPLITS}
    data = make(train_fraction=0.5, repair_iob="i_to_b", context=["captions.jsonl"])
    data.setup("fit")
    assert data.fingerprints == {"train": expected["train"], "valid": expected["valid"]}
    data.setup("test")
    assert data.fingerprints == expected
    assert len(set(expected.values())) == 3
    assert data.describe()["fingerprints"] == expected


def test_predict_split(make):
    data = make()
    data.predict_split = "valid"
    data.setup("predict")
    assert {id_[0] for batch in data.predict_dataloader() for id_ in batch["id"]} == {"1"}


def test_posts_without_gold_can_be_predicted(make, twitter, tmp_path):
    root = copy_of(twitter, tmp_path / "data")
    (root / "test.txt").unlink()
    write_lines(root / "test.jsonl", [{"id": "x", "image_id": "2000", "tokens": ["Anna", "sings"]}])
    data = make(root=root)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert "tags" not in batch
    assert data.datasets["test"].examples[0].tags is None


# Workers


@pytest.mark.slow
@pytest.mark.parametrize("source", [IMAGES, {"features": "regions"}], ids=["images", "features"])
def test_a_worker_process_gives_the_same_batches(make, source):
    options = {"context": ["captions.jsonl"], **source}
    alone, helped = batches(make(**options)), batches(make(num_workers=1, **options))
    assert len(alone) == len(helped) == 2
    for one, two in zip(alone, helped, strict=True):
        assert one["id"] == two["id"]
        tensors = {name for name, value in one.items() if isinstance(value, torch.Tensor)}
        assert tensors == {name for name, value in two.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(one[name], two[name]) for name in tensors)


@pytest.mark.parametrize("source", [IMAGES, {"features": "regions"}], ids=["images", "features"])
def test_what_workers_are_given_can_be_pickled(make, source):
    """As where processes are not forked (macOS, Windows, newer Pythons)."""
    data = make(**source)
    data.setup("fit")
    loader = data.train_dataloader()
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    assert collate([dataset[0], dataset[1]])["id"] == ["0000", "0001"]


def test_the_test_posts_are_shuffled_never(make, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for split in SPLITS:
        write_posts(
            root / f"{split}.txt", [(f"{split}{row}", ["a"] * (row + 1), ["O"] * (row + 1)) for row in range(9)]
        )
    data = make(root=root)
    data.setup("test")
    first, second = (list(by_id(list(data.test_dataloader()), "id")) for _ in range(2))
    assert first == second
    assert sorted(first) == sorted(post.id for post in data.datasets["test"].examples)
