"""Posts with several images, from file and by the tagger."""

import io
import json
import warnings

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from mner.data import Twitter2017DataModule
from mner.data.examples import Example
from mner.data.formats.json_lines import read_jsonl, write_jsonl
from mner.fusion import Concatenation, VisualAttention
from mner.nn import masked_mean
from mner.preprocessing.features import features
from mner.tagger.bulk_input import Images, from_lines
from mner.tagger.post import Post, groups
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.tagger import Tagger
from tests.needy_fusions import Grouped
from tests.tagging import save_checkpoint

WORDS = ("Anna", "visits", "Lagos")
SEEN = {"image_encoder": "test_resnet", "image_weights": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three splits with posts of no, one and three images, of which one is missing."""
    root = tmp_path_factory.mktemp("several") / "posts"
    (root / "images").mkdir(parents=True)
    for number, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
        Image.new("RGB", (60 + 10 * number, 50), colour).save(root / "images" / f"i{number}.png")
    tags = ("B-PER", "O", "B-LOC")
    for split in ("train", "valid", "test"):
        posts = [
            Example(f"{split}0", None, WORDS, tags),
            Example(f"{split}1", "i0", WORDS, tags),
            Example(f"{split}2", "i0", WORDS, tags, more_images=("gone", "i2")),
        ]
        write_jsonl(root / f"{split}.jsonl", posts)
    options = {"encoder": "test_resnet", "weights": "random", "image_size": 64, "device": "cpu", "num_workers": 0}
    features(root / "images", root / "grid", **options)
    features(root / "images", root / "random", regions="random", top_k=3, device="cpu", num_workers=0)
    return root


def batch_of(data, model):
    data.serve(model)
    data.setup("validate")
    dataset = data.datasets["valid"]
    return data.collate(dataset)([dataset[row] for row in range(3)])


def checkpoint(cls, root, bert, tmp_path, kind):
    options = {"images": "images", **SEEN} if kind == "images" else {"features": kind}
    return save_checkpoint(tmp_path / "model.ckpt", cls, root, bert, **options)


@pytest.mark.parametrize("cls", [Concatenation, VisualAttention, Grouped])
@pytest.mark.parametrize("kind", ["images", "grid", "random"])
def test_tagged_as_the_data_module_brings_them(cls, kind, root, bert_folder, tmp_path):
    path = checkpoint(cls, root, bert_folder, tmp_path, kind)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    encoder = {"images": "images", "image_encoder": "test_resnet", "image_size": 64}
    data = Twitter2017DataModule(
        str(root), text_encoder=bert_folder, **(encoder if kind == "images" else {"features": kind})
    )
    batch = batch_of(data, tagger.model)
    with torch.no_grad():
        paths = tagger.model(batch)
    files = [root / "images" / f"{name}.png" for name in ("i0", "gone", "i2")]
    with pytest.warns(ImageWarning, match="missing"):
        found = tagger(
            [Post(words=WORDS), Post(words=WORDS, image=files[0]), Post(words=WORDS, image=files)]
        )
    assert [[tagger.labels.index(tag) for tag in one.tags] for one in found] == paths
    assert [one.has_image for one in found] == batch["has_image"].tolist() == [False, True, True]
    assert [one.image_problem for one in found] == ["", "", "missing"]


def test_regions_of_several_images_are_those_of_each(root, bert_folder):
    pl.seed_everything(0, verbose=False)
    model = Grouped(Twitter2017DataModule.labels, text_encoder=bert_folder, **SEEN).eval()
    options = {"images": "images", "image_encoder": "test_resnet", "image_size": 64}
    batch = batch_of(Twitter2017DataModule(str(root), text_encoder=bert_folder, **options), model)
    assert batch["image"].shape == (3, 3, 3, 64, 64)
    assert batch["image_mask"].tolist() == [[False] * 3, [True, False, False], [True, False, True]]
    assert batch["region_group"][2].tolist() == [0] * 4 + [0] * 4 + [2] * 4
    with torch.no_grad():
        regions, mask = model.raw_regions(batch)
        each = [model.image_encoder(batch["image"][2, number][None])[0] for number in (0, 2)]
    assert mask.sum(1).tolist() == [1, 4, 8]
    torch.testing.assert_close(regions[2][mask[2]], torch.cat(each))
    torch.testing.assert_close(regions[1][mask[1]], each[0])
    torch.testing.assert_close(regions[0, 0], model.no_image)
    torch.testing.assert_close(masked_mean(regions, mask)[1], each[0].mean(0))


def test_a_post_with_one_image_is_what_it_was_beside_one_with_several(root, bert_folder):
    pl.seed_everything(0, verbose=False)
    model = VisualAttention(Twitter2017DataModule.labels, text_encoder=bert_folder, **SEEN).eval()
    options = {"images": "images", "image_encoder": "test_resnet", "image_size": 64}
    data = Twitter2017DataModule(str(root), text_encoder=bert_folder, **options)
    together = batch_of(data, model)
    dataset = data.datasets["valid"]
    alone = data.collate(dataset)([dataset[0], dataset[1]])
    assert alone["image"].shape == (2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.emissions(together)[:2], model.emissions(alone))


@pytest.mark.parametrize("kind", ["images", "random"])
def test_the_picture_that_is_drawn_is_the_first(kind, root, bert_folder, tmp_path):
    tagger = Tagger.from_checkpoint(checkpoint(VisualAttention, root, bert_folder, tmp_path, kind), device="cpu")
    files = [root / "images" / name for name in ("gone.png", "i1.png", "i2.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = tagger.render("Anna visits Lagos", image=files).page()
        (one,) = tagger.prepare([Post("Anna", image=files)])
    assert one.opened.picture.getpixel((0, 0)) == (30, 200, 30)
    assert "attention of" in page


def test_images_of_a_post():
    picture = Image.new("RGB", (4, 4))
    assert Post("a").images == Post("a", image=[]).images == ()
    assert Post("a", image="x.png").images == ("x.png",)
    assert Post("a", image=[picture, "x.png", b"bytes"]).images == (picture, "x.png", b"bytes")
    with pytest.raises(TypeError, match="or a list of those, but got a int"):
        Post("a", image=["x.png", 3])
    with pytest.raises(ValueError, match="from 0 to 1, but got 2"):
        Post("a", relation=2)
    with pytest.raises(TypeError, match="`object_names` of a post to be a list of strings"):
        Post("a", object_names="dog")
    posts = [Post("a", image=["x", "y"]), Post("b", image="z"), Post("c")]
    assert [len(group) for group in groups(posts, size=2, ahead=4)] == [1, 2]


def test_lines_name_several_images(root):
    lines = [
        {"text": "a", "image": ["i0.png", "i2"]},
        {"text": "b", "image_ids": ["i1", "gone"]},
        {"text": "c", "image_id": "i1"},
        {"text": "d", "image": [3]},
    ]
    stream = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
    both, one, single, bad = from_lines(stream, "input", Images(root / "images"))
    assert [path.name for path in both.post.images] == ["i0.png", "i2.png"]
    assert ([path.name for path in one.post.images], one.image_problem) == (["i1.png"], "missing")
    assert single.post.image.name == "i1.png"
    assert "a number among 'image'" in bad.error


def test_files_keep_them(root):
    assert [post.image_ids for post in read_jsonl(root / "valid.jsonl")] == [(), ("i0",), ("i0", "gone", "i2")]
