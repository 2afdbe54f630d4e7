"""Two data sets with other entity types as batches of one data set each, that say which."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl

from mner.data import JointDataModule, Twitter2015DataModule, Twitter2017DataModule
from mner.data.batching import BucketSampler
from mner.data.datamodules.joint import JointSampler, described
from mner.errors import MNERError
from mner.fusion import TextOnly
from tests.tiny_sets import write_twitter

COUNTS = {"a": 23, "b": 9}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    write_twitter(folder / "a", other="OTHER", count=COUNTS["a"])
    write_twitter(folder / "b", count=COUNTS["b"])
    return folder


@pytest.fixture
def make(roots, bert_folder):
    def make(workers=0, **options):
        options = {"batch_size": 4, "text_encoder": bert_folder, "seed": 3, **options}
        parts = {
            "a": Twitter2015DataModule(str(roots / "a"), **options),
            "b": Twitter2017DataModule(str(roots / "b"), **options),
        }
        return JointDataModule(parts, num_workers=workers)

    return make


def seen(loader):
    return [(batch["label_set"], tuple(batch["id"])) for batch in loader]


def test_each_batch_is_of_one_data_set_and_says_which(make):
    data = make()
    for batch in data.train_dataloader():
        assert list(batch["labels"]) == data.labels[batch["label_set"]]
    assert "B-OTHER" in data.labels["a"]
    assert "B-OTHER" not in data.labels["b"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_has_each_post_once_and_the_sets_in_proportion(make, workers):
    loader = make(workers).train_dataloader()
    batches = seen(loader)
    assert len(batches) == len(loader) == 6 + 3
    for name, count in COUNTS.items():
        ids = [id_ for label_set, some in batches if label_set == name for id_ in some]
        assert sorted(ids) == [f"0{row:03d}" for row in range(count)]
    # mixed: neither all of one before all of the other
    names = [name for name, _ in batches]
    assert names not in (sorted(names), sorted(names, reverse=True))


def test_the_order_is_of_seed_and_epoch(make):
    loader = make().train_dataloader()
    first = seen(loader)
    assert seen(make().train_dataloader()) == first
    assert seen(make(seed=4).train_dataloader()) != first
    loader.sampler.set_epoch(1)
    second = seen(loader)
    assert second != first
    assert [part.epoch for part in loader.sampler.parts] == [1, 1], "each makes other batches too"
    loader.sampler.set_epoch(0)
    assert seen(loader) == first


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_of_one_set_after_the_other_as_alone(make, split):
    data = make()
    loader = f"{split}_dataloader"
    alone = [(name, tuple(batch["id"])) for name, part in data.parts.items() for batch in getattr(part, loader)()]
    assert seen(getattr(data, loader)()) == alone


def test_a_place_in_the_epoch_can_be_gone_on_from(make):
    loader = make().train_dataloader()
    batches = iter(loader)
    begun = [next(batches)["id"] for _ in range(4)]
    other = make().train_dataloader()
    other.load_state_dict(loader.state_dict())
    rest = [batch["id"] for batch in other]
    assert [*begun, *rest] == [list(ids) for _, ids in seen(make().train_dataloader())]


def test_tokenisers_must_agree(roots, bert_folder):
    parts = {
        "a": Twitter2015DataModule(str(roots / "a"), text_encoder=bert_folder),
        "b": Twitter2017DataModule(str(roots / "b"), text_encoder="tiny"),
    }
    with pytest.raises(MNERError, match=r"data sets with one tokeniser, but got those of .*tiny"):
        JointDataModule(parts).train_dataloader()


def test_data_modules_take_the_tokeniser_of_the_model(roots, bert_folder):
    parts = {"a": Twitter2015DataModule(str(roots / "a")), "b": Twitter2017DataModule(str(roots / "b"))}
    data = JointDataModule(parts)
    model = TextOnly(data.labels, text_encoder=bert_folder)
    trainer(limit_val_batches=2).validate(model, datamodule=data, verbose=False)
    alone = Twitter2015DataModule(str(roots / "a"), text_encoder=bert_folder)
    for part in parts.values():
        assert part.post_tokenizer.fingerprint == alone.post_tokenizer.fingerprint


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(enable_model_summary=False, **quiet, **options)


def test_what_it_cannot_do_is_refused(make, bert_folder):
    with pytest.raises(ValueError, match="one data module at least"):
        JointDataModule({})
    data = make()
    with pytest.raises(MNERError, match="'a' or 'b', as `label_set`"):
        data.predict_dataloader()
    for labels in (data.labels["a"], {"b": data.labels["b"], "c": data.labels["a"]}):
        with pytest.raises(MNERError, match=r"labels=data\.labels"):
            trainer(limit_val_batches=1).validate(TextOnly(labels, text_encoder=bert_folder), datamodule=data)
    with pytest.raises(MNERError, match="leave out overfit_batches"):
        trainer(max_epochs=1, overfit_batches=9).fit(TextOnly(data.labels, text_encoder=bert_folder), datamodule=data)


def test_several_processes_are_refused(make):
    data = make()
    data.trainer = trainer(devices=2, strategy="ddp")
    with pytest.raises(MNERError, match="one process for JointDataModule, but got 2"):
        data.setup("fit")
    # and with loaders by hand, which find the processes when they are used
    sampler = JointSampler([BucketSampler(data.parts["a"].train_dataloader().sampler.lengths, 4, True)], shuffle=True)
    sampler.num_replicas = 2
    with pytest.raises(MNERError, match="one process"):
        len(sampler)


def test_what_a_checkpoint_says_is_of_each_set(make):
    data = make()
    data.val_dataloader()
    kept = data.describe()
    assert described(kept, "b")["fingerprints"] == data.parts["b"].fingerprints
    assert described(kept, "a")["name"] == "Twitter2015DataModule"
    assert described(kept, "b")["tokenizer"] == data.parts["a"].post_tokenizer.files()
    assert described({"name": "X"}, None) == {"name": "X"}
