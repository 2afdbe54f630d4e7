import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from mner.analysis.systems import ArgumentError
from mner.data import Twitter2017DataModule
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.transforms import ImageTransform
from mner.fusion import CoAttention, Concatenation, VisualAttention
from mner.probing.attention import _shown, attention_command, attention_of, seen_picture
from mner.probing.runner import Runner


@pytest.fixture
def make(posts_folder, bert_folder):
    def make(cls):
        pl.seed_everything(0, verbose=False)
        labels = Twitter2017DataModule.labels
        model = cls(labels, text_encoder=bert_folder, image_encoder="test_resnet", image_weights=None).eval()
        data = Twitter2017DataModule(
            str(posts_folder), text_encoder=bert_folder, images="images", image_encoder="test_resnet"
        )
        return model, data

    return make


def save(model, data, path):
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=0, enable_checkpointing=False, default_root_dir=path.parent,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_one_map_for_the_post_or_one_for_each_entity(make):
    model, data = make(VisualAttention)
    _, looks = attention_of(Runner(model, data, data.dataset("valid")), 0)
    assert [look.query for look in looks] == [None]
    assert looks[0].weights.sum() == pytest.approx(1, abs=1e-5)
    model, data = make(CoAttention)
    with torch.no_grad():  # nothing predicted: the gold entities
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([9.0] + [0.0] * 8))
    post, looks = attention_of(Runner(model, data, data.dataset("valid")), 0)
    assert set(post.pred) == {"O"}
    assert [look.query for look in looks] == ["Anna", "Old Town"]
    for look in looks:
        assert look.weights.sum() == pytest.approx(1, abs=1e-5)


def test_model_without_attention_is_refused(make):
    model, data = make(Concatenation)
    with pytest.raises(ArgumentError, match="nothing to draw"):
        attention_of(Runner(model, data, data.dataset("valid")), 0)


def test_picture_is_what_the_model_sees():
    # A wide picture whose middle alone is white: the crop shows white only.
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, 35:85] = 255
    shown = seen_picture(Image.fromarray(pixels), ImageTransform(size=20, crop=1.0))
    assert shown.shape == (20, 20, 3)
    np.testing.assert_allclose(shown, 1, atol=0.01)


def test_boxes_are_drawn_on_the_whole_picture(posts_folder, bert_folder, tmp_path):
    boxes = np.array([[0, 0, 30, 20], [5, 5, 60, 50]], dtype=np.float32)
    with FeatureWriter(tmp_path / "regions", kind="regions", encoder="random", width=4, classes=["thing"]) as writer:
        one = np.ones((2, 4)), boxes, np.array([0.9, 0.5]), ["thing"] * 2
        features, places, scores, names = ([part, part] for part in one)
        writer.append(["00", "10"], features, boxes=places, scores=scores, names=names)
        writer.finish()
    data = Twitter2017DataModule(str(posts_folder), text_encoder=bert_folder, features=str(tmp_path / "regions"))
    model = VisualAttention(data.labels, text_encoder=bert_folder, region_width=4).eval()
    picture = Image.new("RGB", (80, 60))
    shown, found = _shown(data, Runner(model, data, data.dataset("valid")), picture, "10")
    assert shown is picture
    np.testing.assert_array_equal(found, boxes)
    checkpoint = save(model, data, tmp_path / "model.ckpt")
    options = {"features": str(tmp_path / "regions"), "out": tmp_path / "out", "device": "cpu"}
    assert attention_command(checkpoint, posts_folder, posts_folder / "images", posts=["10"], **options) == 0
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["10-1.png"]


def test_command_draws_posts_at_random_or_by_id(make, posts_folder, tmp_path, capsys):
    checkpoint = save(*make(VisualAttention), tmp_path / "model.ckpt")
    options = {"split": "valid", "device": "cpu"}
    attention_command(checkpoint, posts_folder, posts_folder / "images", count=2, out=tmp_path / "a", **options)
    drawn = [path.stem for path in (tmp_path / "a").glob("[!.]*")]
    assert len(drawn) == 2
    assert set(drawn) <= {"10-1", "11-1", "14-1", "15-1"}  # 12 has no image, that of 13 is broken
    attention_command(
        checkpoint, posts_folder, posts_folder / "images", posts=["12", "14"], out=tmp_path / "b", **options
    )
    assert [path.stem for path in (tmp_path / "b").glob("[!.]*")] == ["14-1"]
    assert "12: no picture to draw on (missing)" in capsys.readouterr().out
    with pytest.raises(ArgumentError, match="nobody"):
        attention_command(checkpoint, posts_folder, posts_folder / "images", posts=["nobody"], out=tmp_path, **options)
