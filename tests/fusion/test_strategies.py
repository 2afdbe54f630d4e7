"""What our strategies hold beside `mner.testing.check_fusion`; found by introspection, so that a new one is tested by
being there. `test_testing.py` runs that on the same list."""

import copy
import importlib
import inspect
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import mner.fusion
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.fusion import FusionModule, VisuallyAidedAttention
from mner.labels import bio_labels
from tests.conftest import WORDS

LABELS = bio_labels(["PER", "LOC", "ORG", "MISC"])
WIDTH = 12
CONTEXTS = ["a long caption of the image", "", "short", "a", "b c", "caption"]


def strategies():
    for module in pkgutil.iter_modules(mner.fusion.__path__):
        importlib.import_module(f"mner.fusion.{module.name}")
    found, queue = [], [FusionModule]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if cls.__module__.startswith("mner.fusion.") and not inspect.isabstract(cls):
                found.append(cls)
    return sorted(set(found), key=lambda cls: cls.__name__)


STRATEGIES = strategies()
WITH_IMAGE = [cls for cls in STRATEGIES if cls.uses_image]
every = pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
every_with_image = pytest.mark.parametrize("cls", WITH_IMAGE, ids=lambda cls: cls.__name__)


@pytest.fixture(scope="module")
def posts():
    return [
        Example(str(row), f"i{row}", tuple(words), tuple(tags), (CONTEXTS[row],))
        for row, (words, tags) in enumerate(WORDS)
    ]


@pytest.fixture(scope="module")
def store():
    generator = np.random.default_rng(0)
    # Post 2 has no image; the others have one to five regions.
    return {f"i{row}": generator.normal(size=(row % 5 + 1, WIDTH)).astype(np.float32) for row in (0, 1, 3, 4, 5)}


@pytest.fixture(scope="module")
def dataset(posts, store, bert_folder):
    return MNERDataset(posts, LABELS, PostTokenizer(bert_folder), regions=store)


@pytest.fixture
def batch(dataset):
    return Collate(0, region_width=WIDTH)([dataset[index] for index in range(len(dataset))])


@pytest.fixture
def make(bert_folder):
    def make(cls, **kwargs):
        pl.seed_everything(0, verbose=False)
        width = {"region_width": WIDTH} if cls.uses_image else {}
        return cls(LABELS, text_encoder=bert_folder, **width, **kwargs).eval()

    return make


def test_the_study_is_there():
    names = {cls.__name__ for cls in STRATEGIES}
    assert names >= {
        "TextOnly",
        "Concatenation",
        "VisualAttention",
        "CoAttention",
        "TransformerAttention",
        "UnifiedMultimodalTransformer",
    }


@every
def test_a_class_can_be_read_beside_its_paper(cls):
    assert len(inspect.getsourcelines(cls)[0]) < 150


@every
def test_one_step_reaches_every_parameter(cls, make, batch):
    # Posts with and without images in one batch: distributed training waits for each gradient in each step.
    module = make(cls).train()
    sum(module.losses(batch).values()).backward()
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    assert [name for name, value in learning.items() if value.grad is None] == []


@every_with_image
def test_a_post_without_image_sees_the_learned_vector_only(cls, make, batch):
    module = make(cls)
    garbage = copy.deepcopy(batch)
    garbage["regions"][2] = float("nan")  # post 2 has no image
    words = len(batch["words"][2])
    torch.testing.assert_close(module.emissions(batch)[2, :words], module.emissions(garbage)[2, :words])
    if not cls.replaces_missing_images:
        assert not module.no_image.requires_grad
        assert not module.raw_regions(batch)[1][2].any()
        return
    if cls is VisuallyAidedAttention:  # where there is one word before, nothing is to be chosen
        return
    with torch.no_grad():
        module.no_image += 1
    changed = module.emissions(batch)
    assert not torch.allclose(
        changed[2, :words], module.emissions({**batch, "region_mask": ~batch["region_mask"]})[2, :words]
    )


@every
def test_no_image_at_all(cls, make, batch):
    bare = {name: value for name, value in batch.items() if name not in ("regions", "region_mask")}
    bare["has_image"] = torch.zeros_like(batch["has_image"])
    assert [len(path) for path in make(cls)(bare)] == [len(words) for words in batch["words"]]


@every
def test_context_is_read_but_never_tagged(cls, make, posts, bert_folder, store):
    module = make(cls)
    tokenizer, collate = PostTokenizer(bert_folder), Collate(0, region_width=WIDTH)
    first = MNERDataset(posts[:1], LABELS, tokenizer, regions=store)
    second = MNERDataset([replace(posts[0], context=("something else",))], LABELS, tokenizer, regions=store)
    one, two = collate([first[0]]), collate([second[0]])
    assert module.emissions(one).shape == module.emissions(two).shape == (1, len(posts[0].words), len(LABELS))
    reads = any(parameter.requires_grad for parameter in module.text_encoder.parameters())  # not CharacterImage
    assert torch.allclose(module.emissions(one), module.emissions(two), atol=1e-6) is not reads


@every
def test_a_checkpoint_is_read_safely_and_its_options_can_be_replaced(cls, make, dataset, tmp_path):
    module = make(cls, dropout=0.2)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(dataset, batch_size=3, collate_fn=Collate(0, region_width=WIDTH))
    trainer.fit(module.train(), loader)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = FusionModule.load_from_checkpoint(path)
    assert type(loaded) is cls
    assert loaded.hparams["dropout"] == 0.2
    again = cls.load_from_checkpoint(path, learning_rate=1.0)
    assert again.hparams["learning_rate"] == 1.0


@every
def test_docstring_names_its_paper(cls):
    assert "Paper:" in inspect.getdoc(cls)
