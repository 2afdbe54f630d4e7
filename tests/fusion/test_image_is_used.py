"""On the sample data a strategy that sees the picture passes what text alone can reach; docs/benchmarks.md has all."""

import shutil

import pytest
import pytorch_lightning as pl

from mner.data import SampleDataModule
from mner.data.sample.texts import text_ceiling
from mner.fusion import Concatenation, MatchingAlignment, TextOnly, TransformerAttention


def trained(cls, root, **options):
    """A trainer, its model and a function that makes the data of another folder."""
    pl.seed_everything(0, verbose=False)
    image = {"image_encoder": "test_resnet"} if cls.uses_image else {}
    folder = {"images": "images", "image_size": 32} if cls.uses_image else {}

    def data_of(root):
        return SampleDataModule(str(root), batch_size=16, **image, **folder)

    data = data_of(root)
    frozen = {"image_weights": None, "freeze_image_encoder": False} if cls.uses_image else {}
    options |= {"learning_rate": 2e-3, "head_learning_rate": 3e-3, "warmup_ratio": 0.1}
    module = cls(data.labels, **image, **frozen, **options)
    trainer = pl.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer, module, data_of


def valid_f1(cls, root, **options):
    trainer, _, data_of = trained(cls, root, **options)
    return 100 * float(trainer.callback_metrics["val/f1"]), text_ceiling(data_of(root).examples("valid"))


def shuffled_copy(root):
    """The same posts, each with the image of another."""
    copy = root.with_name("shuffled")
    shutil.copytree(root, copy)
    names = sorted(path.name for path in (root / "images").iterdir())
    for name, other in zip(names, names[7:] + names[:7], strict=True):
        shutil.copyfile(root / "images" / other, copy / "images" / name)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "options"), [(MatchingAlignment, {}), (TransformerAttention, {"start_layer": 1})])
def test_own_images_beat_those_of_other_posts(cls, options, tmp_path):
    trainer, module, data_of = trained(cls, tmp_path / "sample", **options)
    image = 100 * float(trainer.callback_metrics["val/f1"])
    trainer.validate(module, data_of(shuffled_copy(tmp_path / "sample")), verbose=False)
    assert image > 100 * float(trainer.callback_metrics["val/f1"]) + 10


@pytest.mark.slow
def test_images_pass_the_ceiling_of_text_unless_shuffled(tmp_path):
    text, ceiling = valid_f1(TextOnly, tmp_path / "sample")
    ceiling = 100 * ceiling if ceiling <= 1 else ceiling
    image, _ = valid_f1(Concatenation, tmp_path / "sample")
    shuffled, _ = valid_f1(Concatenation, shuffled_copy(tmp_path / "sample"))
    assert text < ceiling + 3
    assert image > text + 20
    assert shuffled < ceiling + 3
