"""Hugging Face data sets as data modules, and back: tiny ones, drawn here, without network."""

from __future__ import annotations

import json
import pickle
import re
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mner.cli import main
from mner.data import DatasetsDataModule, Example, SnapchatDataModule, Twitter2017DataModule, to_dataset, to_datasets
from mner.data.examples import fingerprint
from mner.data.formats.images import ImageFolder
from mner.data.formats.predictions import read_predictions
from mner.data.formats.schemes import from_iob2
from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError
from mner.labels import bio_labels, entity_types, repair
from tests.conftest import WORDS
from tests.tiny_sets import COLOURS, write_snapchat, write_twitter

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
SPLITS = {"train": 0, "validation": 1, "test": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def picture(row):
    file = BytesIO()
    Image.new("RGB", (48, 40), COLOURS[row % len(COLOURS)]).save(file, "PNG")
    return file.getvalue()


def rows(number, **changed):
    """The posts of `conftest` as columns: the third has no image, that of the fourth is broken."""
    columns = {
        "id": [f"{number}{row}" for row in range(len(WORDS))],
        "tokens": [words for words, _ in WORDS],
        "ner_tags": [[NAMES.index(tag) for tag in tags] for _, tags in WORDS],
        "image": [
            None if row == 2 else {"bytes": b"no image" if row == 3 else picture(row), "path": None}
            for row in range(len(WORDS))
        ],
        "caption": [f"{len(words)} things" for words, _ in WORDS],
    }
    return columns | changed


def features(**changed):
    text = datasets.Value("string")
    known = {
        "id": text,
        "tokens": datasets.List(text),
        "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
        "image": datasets.Image(),
        "caption": text,
    }
    return datasets.Features({name: kind for name, kind in (known | changed).items() if kind is not None})


def table(number=0, kinds=None, **changed):
    kinds = features(**(kinds or {}))
    columns = {name: values for name, values in rows(number, **changed).items() if name in kinds}
    return datasets.Dataset.from_dict(columns, features=kinds)


@pytest.fixture
def saved(tmp_path):
    """A function that saves splits and returns their folder."""

    def save(**splits):
        folder = tmp_path / "saved"
        datasets.DatasetDict(splits).save_to_disk(str(folder))
        return str(folder)

    return save


@pytest.fixture
def folder(saved):
    return saved(**{name: table(number) for name, number in SPLITS.items()})


def module(path, bert_folder="tiny", **options):
    return DatasetsDataModule(path, text_encoder=bert_folder, **options)


WITH_IMAGES = {"images": "image", "image_encoder": "test_resnet", "image_size": 32}


def test_posts_labels_images_and_texts_are_columns(folder, bert_folder, caplog):
    data = module(folder, bert_folder, context=["caption"], batch_size=3, **WITH_IMAGES)
    assert data.labels == NAMES
    assert data.context_names == ["caption"]
    data.setup("fit")
    posts = data.datasets["train"].examples
    assert posts[0] == Example("00", "00", tuple(WORDS[0][0]), tuple(WORDS[0][1]), ("4 things",))
    assert posts[3].tags == ("O", "O", "I-PER", "O"), "a stray I- stays what it is"
    assert data.fingerprints == {split: fingerprint(data.datasets[split].examples) for split in ("train", "valid")}
    assert "train: 1 of 6 posts have no image (1 missing)" in caplog.text
    batches = list(data.train_dataloader())
    assert sorted(id_ for batch in batches for id_ in batch["id"]) == [f"0{row}" for row in range(6)]
    has_image = {
        id_: there for batch in batches for id_, there in zip(batch["id"], batch["has_image"].tolist(), strict=True)
    }
    assert [id_ for id_, there in has_image.items() if not there] == sorted(["02", "03"], key=list(has_image).index)
    assert all(batch["segment_ids"].any() for batch in batches)
    for batch in batches:
        data.on_before_batch_transfer(batch, 0)
    data.teardown("fit")
    assert "1 image files could not be read (03)" in caplog.text


def test_images_go_through_the_same_pipeline_as_files(tmp_path, saved, bert_folder):
    root = write_twitter(tmp_path / "twitter")
    inputs = {
        "image_encoder": "test_resnet",
        "image_size": 32,
        "text_encoder": bert_folder,
        "context": ["captions.jsonl"],
    }
    files = Twitter2017DataModule(str(root), images="images", **inputs)
    to_datasets(files).save_to_disk(str(tmp_path / "out"))
    columns = DatasetsDataModule(str(tmp_path / "out"), images="image", **inputs | {"context": ["captions"]})
    for stage in ("fit", "test"):
        files.setup(stage)
        columns.setup(stage)
    assert columns.labels == files.labels
    assert columns.fingerprints == files.fingerprints
    for split in ("train", "valid", "test"):
        assert columns.datasets[split].examples == files.datasets[split].examples
    for ours, theirs in zip(columns.test_dataloader(), files.test_dataloader(), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
    # And once more from there.
    again = to_datasets(columns)
    assert again["test"].features == datasets.load_from_disk(str(tmp_path / "out"))["test"].features
    assert again["test"]["id"][:] == [post.id for post in files.datasets["test"].examples]
    with pytest.raises(OSError, match="cannot identify image"):
        again["test"][3]  # broken, and kept as it is


def test_worker_processes_get_images(folder, bert_folder):
    data = module(folder, bert_folder, num_workers=1, batch_size=6, **WITH_IMAGES)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch["has_image"].sum() == 4
    images = pickle.loads(pickle.dumps(data.image_source("test")))  # as where processes are spawned
    assert images.open("20").getpixel((0, 0)) == COLOURS[0]
    assert (images.load("22"), images.load("23"), images.load("99")) == (
        (None, "missing"), (None, "not an image"), (None, "missing"))  # fmt: skip


def test_images_are_bytes_or_files_elsewhere(tmp_path, saved, bert_folder):
    (tmp_path / "here.png").write_bytes(picture(4))
    paths = [str(tmp_path / "here.png"), str(tmp_path / "gone.png"), str(tmp_path), None, None, None]
    rows_ = table(image=paths, kinds={"id": None})
    data = module(saved(train=table()), image_id=None, **WITH_IMAGES)
    data.tables["train"] = type(data.tables["train"])(rows_, "here", [("train", 0, 6)])  # saving reads the files
    images = data.image_source("train")
    assert len(images) == 3
    assert images.open("train/0").getpixel((0, 0)) == COLOURS[4]
    assert images.load("train/1") == images.load("train/2") == (None, "missing")
    data = module(data.path, **WITH_IMAGES)
    raw = table(image=[picture(row) for row in range(6)], kinds={"image": datasets.Value("binary")})
    data.tables["train"] = type(data.tables["train"])(raw, "here", [("train", 0, 6)])
    assert data.image_source("train").open("05").getpixel((0, 0)) == COLOURS[5]


def test_a_folder_of_images_beside_the_data_set(tmp_path, saved, bert_folder):
    named = table(kinds={"image": datasets.Value("string")}, image=[f"0{row}.jpg" for row in range(6)])
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "pictures" / "01.jpg")
    path = saved(train=named)
    options = WITH_IMAGES | {"images": str(tmp_path / "pictures"), "image_id": "image"}
    data = module(path, bert_folder, **options)
    assert data.dataset("train")[1]["image"].shape == (3, 32, 32)
    assert data.dataset("train")[0]["image"] is None
    assert data.examples("train")[1].image_id == "01.jpg"
    with pytest.raises(DataFormatError, match=r"in column 'image'; expected images.*give their folder as `images`"):
        module(path, **WITH_IMAGES).image_source("train")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_folders_of_files(tmp_path, kind):
    root = tmp_path / "files"
    for name, number in SPLITS.items():
        rows_ = table(number, kinds={"image": None})
        file = str(root / f"{name}.{kind}")
        root.mkdir(exist_ok=True)
        if kind == "parquet":
            rows_.to_parquet(file)
        else:
            with open(file, "w", encoding="utf-8") as lines:
                for post in rows_:
                    post["ner_tags"] = [NAMES[tag] for tag in post["ner_tags"]]
                    lines.write(json.dumps(post) + "\n")
    data = module(str(root))
    assert data.labels == (NAMES if kind == "parquet" else bio_labels(["LOC", "MISC", "ORG", "PER"]))
    assert data.examples("valid")[5].tags == tuple(WORDS[5][1])
    assert data.examples("test")[5].id == "25"


def test_splits_may_be_parts(saved):
    data = module(saved(all=table()), splits={"train": "all[:4]", "valid": "all[4:]", "test": "all[:1]+all[5:]"})
    assert [post.id for post in data.examples("valid")] == ["04", "05"]
    assert [post.id for post in data.examples("test")] == ["00", "05"]
    with pytest.raises(DataFormatError, match=r"1 posts in both train and test.*give `id: null`"):
        data.setup("test")
    numbered = module(data.path, splits=data.splits, id=None, image_id=None)
    assert [post.id for post in numbered.examples("test")] == ["all/0", "all/5"]


def test_rows_are_numbered_where_ids_count_anew(saved, bert_folder):
    same = {"train": table(), "validation": table(0)}
    with pytest.raises(DataFormatError, match=r"6 posts in both train and valid.*give `id: null`"):
        module(saved(**same), bert_folder).setup("fit")
    data = module(saved(**same), bert_folder, id=None)
    data.setup("fit")
    assert data.datasets["valid"].examples[2].id == data.datasets["valid"].examples[2].image_id == "validation/2"
    without = module(saved(train=table(kinds={"id": None})))
    assert without.examples("train")[0].id == "train/0", "no column of ids"
    numbers = table(id=list(range(6)), kinds={"id": datasets.Value("int32")})
    assert module(saved(train=numbers)).examples("train")[5].id == "5"


def test_tags_may_be_strings_or_bare_numbers_or_unknown(saved):
    strings = {"ner_tags": datasets.List(datasets.Value("string"))}
    data = module(saved(train=table(kinds=strings, ner_tags=[*(tags for _, tags in WORDS[:5]), None])))
    assert data.labels == bio_labels(["LOC", "ORG", "PER"])
    assert [post.tags for post in data.examples("train")] == [*(tuple(tags) for _, tags in WORDS[:5]), None]
    bare = saved(train=table(kinds={"ner_tags": datasets.List(datasets.Value("int8"))}))
    with pytest.raises(
        DataFormatError, match=r"int8.*in column 'ner_tags'; expected.*Give their names as `label_names`"
    ):
        module(bare)
    data = module(bare, label_names=NAMES)
    assert data.labels == NAMES
    assert data.examples("train")[1].tags == tuple(WORDS[1][1])
    data = module(bare, tags=None, types=["PER"])
    assert data.labels == bio_labels(["PER"])
    assert data.examples("train")[0].tags is None
    with pytest.raises(DataFormatError, match="no entity types"):
        module(bare, tags=None)
    with pytest.raises(DataFormatError, match=r"tags \['B-LOC', .*give `types` to SnapchatDataModule or DatasetsData"):
        module(bare, label_names=NAMES, types=["PER"]).examples("train")


FAULTS = {
    "a tag too few": (
        {"ner_tags": [[0], *([0] * len(words) for words, _ in WORDS[1:])]}, {},
        "saved, row train/0: found 4 words and 1 tags in 'ner_tags'; expected as many tags as words"),
    "no tag": ({"ner_tags": [[0, 0, 0, -1], *([0] * len(words) for words, _ in WORDS[1:])]}, {},
               "row train/0: found the tag -1 in 'ner_tags'; expected a number from 0 to 8. Where gold is unknown"),
    "no scheme": ({"ner_tags": [["X-PER", "O", "O", "O"], *(tags for _, tags in WORDS[1:])]},
                       {"ner_tags": "string"}, "row train/0: found the tag 'X-PER' in 'ner_tags'; expected O, B-TYPE"),
    "two schemes": ({"ner_tags": [["S-PER", "O", "O", "O"], *(["L-LOC"] * len(tags) for _, tags in WORDS[1:])]},
                    {"ner_tags": "string"}, "row train/1: found the tag 'L-LOC' in 'ner_tags', after 'S-PER' in row"),
    "an empty tag": ({"ner_tags": [["B-PER", None, "O", "O"], *(tags for _, tags in WORDS[1:])]},
                     {"ner_tags": "string"}, "row train/0: found the tag null in 'ner_tags'; expected O, B-TYPE"),
    "no words": ({"tokens": [*(words for words, _ in WORDS[:5]), []],
                  "ner_tags": [*([0] * len(words) for words, _ in WORDS[:5]), []]}, {},
                 "row train/5: found an empty list in column 'tokens'; expected at least one word"),
    "an empty word": ({"tokens": [*(words for words, _ in WORDS[:5]), [""] * 10]}, {},
                      "row train/5: found '' among the words in 'tokens'; expected words with content"),
    "null words": ({"tokens": [None, *(words for words, _ in WORDS[1:])]}, {},
                   "row train/0: found null in column 'tokens'; expected at least one word"),
    "an id twice": ({"id": ["7", "8", "7", "1", "2", "3"]}, {},
                    "row train/2: found the id '7' again, after row train/0; expected each id once"),
    "no id": ({"id": ["7", None, "9", "1", "2", "3"]}, {}, "row train/1: found null in column 'id'; expected an id"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_their_row(fault, saved):
    changed, kinds, expected = FAULTS[fault]
    kinds = {name: datasets.List(datasets.Value(kind)) for name, kind in kinds.items()}
    data = module(saved(train=table(kinds=kinds, **changed)))
    with pytest.raises(DataFormatError) as raised:
        data.examples("train")
    assert expected in str(raised.value)


def test_faults_of_columns(saved, tmp_path):
    path = saved(train=table())
    with pytest.raises(
        DataFormatError, match=r"no column 'words' \(the columns are id, tokens, ner_tags, image, caption\)"
    ):
        module(path, tokens="words")
    with pytest.raises(DataFormatError, match="no column 'labels'"):
        module(path, tags="labels")
    with pytest.raises(DataFormatError, match="no column 'tweet_id'"):
        module(path, id="tweet_id").examples("train")
    with pytest.raises(DataFormatError, match="in column 'caption'; expected a list of strings"):
        module(path, tokens="caption")
    with pytest.raises(DataFormatError, match="in column 'tokens'; expected strings"):
        module(path, context=["tokens"]).examples("train")
    with pytest.raises(DataNotFoundError, match="No context file matches"):
        module(path, context=["captions"]).examples("train")
    with pytest.raises(DataNotFoundError, match="No images at"):
        module(path, **WITH_IMAGES | {"images": "pictures"}).image_source("train")
    with pytest.raises(DataNotFoundError, match=r"No valid split in .*found train; expected.*valid: 'train"):
        module(path).examples("valid")
    with pytest.raises(DataNotFoundError, match="has no split 'dev'"):
        module(path, splits={"valid": "dev"})
    with pytest.raises(ValueError, match=r"to name some of .*got \['validation'\]"):
        module(path, splits={"validation": "train"})
    with pytest.raises(DataNotFoundError, match="has the splits all; expected train"):
        module(saved(all=table()))
    with pytest.raises(DataNotFoundError, match=r"Expected a data set at .*nothing"):
        module(str(tmp_path / "nothing"))
    names = datasets.List(datasets.ClassLabel(names=["PER", "O"]))
    plain = saved(train=table(kinds={"ner_tags": names}, ner_tags=[[1] * len(words) for words, _ in WORDS]))
    with pytest.raises(DataFormatError, match="column 'ner_tags': found the tag 'PER'; expected O, B-TYPE or I-TYPE"):
        module(plain)


def test_the_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mner\[datasets\]'"):
        module("somebody/something")
    with pytest.raises(MissingDependencyError):
        to_dataset([], ["O"])


def test_what_cannot_be_written(tmp_path):
    post = Example("1", "1", ("a",), ("B-PER",), ("text",))
    with pytest.raises(ValueError, match=r"post '1' has \['B-PER'\]"):
        to_dataset([post], ["O"], context=["caption"])
    with pytest.raises(ValueError, match="post '1' has 1"):
        to_dataset([post], bio_labels(["PER"]))
    with pytest.raises(ValueError, match="distinct names of `context`"):
        to_dataset([post], bio_labels(["PER"]), context=["tokens"])
    written = to_dataset([post], bio_labels(["PER"]), ImageFolder(tmp_path), ["caption"])
    assert written[0] == {
        "id": "1", "image_id": "1", "tokens": ["a"], "ner_tags": [1], "image": None, "caption": "text"}  # fmt: skip


def test_the_command_that_exports(tmp_path, capsys, bert_folder):
    root, out = write_snapchat(tmp_path / "snapchat"), tmp_path / "out"
    types = '["PER", "LOC", "ORG", "MISC"]'
    assert main(["data", "export", str(root), str(out), "--types", types]) == 0
    assert "valid: 6 posts, 5 images\n" in capsys.readouterr().out
    inputs = {"image_encoder": "test_resnet", "image_size": 32, "text_encoder": bert_folder}
    ours = DatasetsDataModule(str(out), images="image", context=["image_captions"], **inputs)
    theirs = SnapchatDataModule(str(root), images="images", context=["captions/*_image_captions.json"], **inputs)
    assert ours.labels == theirs.labels
    for split in ("train", "valid", "test"):
        one, two = ours.dataset(split), theirs.dataset(split)
        assert one.examples == two.examples
        for row in range(len(one)):
            a, b = one[row]["image"], two[row]["image"]
            assert (a is None and b is None) or torch.equal(a, b)
    assert ours.fingerprints == theirs.fingerprints
    mine = tmp_path / "mine" / "dataset_dict.json"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    assert main(["data", "export", str(root), str(mine.parent)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert mine.read_text(encoding="utf-8") == "mine"
    assert main(["data", "export", str(root), str(tmp_path / "sorted")]) == 0
    assert DatasetsDataModule(str(tmp_path / "sorted")).labels == bio_labels(["LOC", "MISC", "ORG", "PER"])


def test_trains_and_predicts_from_the_command_line(folder, bert_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    page = (Path(__file__).parents[3] / "docs" / "huggingface.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1])
    assert shown["data"]["init_args"].keys() == {"path", "images", "context"}
    shown["data"]["init_args"] |= {"path": folder, "image_size": 32, "batch_size": 4}
    shown["model"]["init_args"] = {"text_encoder": bert_folder, "image_encoder": "test_resnet", "image_weights": None}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": "run"}
    shown["trainer"] = {"max_epochs": 1, "accelerator": "cpu", **quiet}
    config.write_text(yaml.safe_dump(shown), encoding="utf-8")
    assert main(["fit", "--config", str(config)]) != 2, capsys.readouterr().err
    data = module(folder)
    data.examples("test")
    checkpoint = next((tmp_path / "run").rglob("best.ckpt"))
    assert main(["validate", "--config", str(config), "--ckpt_path", str(checkpoint)]) != 2
    assert main(["test", "--config", str(config), "--ckpt_path", str(checkpoint)]) != 2
    assert "SpanF1 and seqeval agree" in capsys.readouterr().out
    given = ["--data=DatasetsDataModule", f"--data.path={folder}", "--data.images=image", "--data.image_size=32"]
    given += ["--data.context=[caption]", f"--ckpt_path={checkpoint}", "--output=out.jsonl"]
    assert main(["predict", *given]) != 2, capsys.readouterr().err
    found = read_predictions(tmp_path / "out.jsonl")
    assert found.header["data"] == "DatasetsDataModule"
    assert found.header["context"] == ["caption"]
    assert found.header["fingerprint"] == data.fingerprints["test"]
    assert [post.has_image for post in found.posts] == [True, True, False, False, True, True]
    assert main(["test", f"--ckpt_path={checkpoint}"]) == 2
    assert "--data DatasetsDataModule --data.path FOLDER" in capsys.readouterr().err
    assert main(["fit", "--data=DatasetsDataModule", "--data.root=x", "--model=TextOnly"]) == 2
    assert "there is no option 'root'" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["IOB1", "IOBES", "BILOU"])
@pytest.mark.parametrize("numbered", [True, False])
def test_other_schemes_are_converted(saved, scheme, numbered):
    gold = [repair(tags) for _, tags in WORDS]
    tags = [list(from_iob2(some, scheme)) for some in gold]
    names = ["O", *sorted({tag for some in tags for tag in some} - {"O"})]
    kind = datasets.ClassLabel(names=names) if numbered else datasets.Value("string")
    given = [[names.index(tag) for tag in some] for some in tags] if numbered else tags
    data = module(saved(train=table(kinds={"ner_tags": datasets.List(kind)}, ner_tags=given)))
    assert sorted(entity_types(data.labels)) == ["LOC", "MISC", "ORG", "PER"]
    assert [list(post.tags) for post in data.examples("train")] == gold
