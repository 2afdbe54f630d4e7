"""Loaders as Lightning and PyTorch expect them: a map-style data set, batches, and a place in the epoch."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from mner.data import Twitter2017DataModule
from mner.fusion import TextOnly
from tests.tiny_sets import write_twitter

POSTS = 23


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_twitter(tmp_path_factory.mktemp("data"), count=POSTS)


@pytest.fixture
def make(root, bert_folder):
    def make(**options):
        return Twitter2017DataModule(str(root), **{"batch_size": 4, "text_encoder": bert_folder, "seed": 3, **options})

    return make


def ids(batches):
    return [batch["id"] for batch in batches]


def test_a_loader_sets_up_what_it_needs(make):
    loader = make().train_dataloader()
    assert len(loader) == 6
    assert len(loader.dataset) == POSTS
    assert sorted(id_ for batch in ids(loader) for id_ in batch) == [f"0{row:03d}" for row in range(POSTS)]
    for name, first in (("val", "1"), ("test", "2"), ("predict", "2")):
        seen = [id_ for batch in ids(getattr(make(), f"{name}_dataloader")()) for id_ in batch]
        assert {id_[0] for id_ in seen} == {first}
        assert len(seen) == len(set(seen)) == POSTS


def test_its_parts_work_in_a_plain_loader(make):
    loader = make().train_dataloader()
    plain = DataLoader(loader.dataset, batch_size=5, shuffle=True, collate_fn=loader.collate_fn)
    assert sorted(id_ for batch in ids(plain) for id_ in batch) == [f"0{row:03d}" for row in range(POSTS)]
    (one,) = DataLoader(torch.utils.data.Subset(loader.dataset, [3]), collate_fn=loader.collate_fn)
    assert one["id"] == ["0003"]


def test_lightning_finds_what_sets_the_epoch(make):
    loader = make().train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler), "else Lightning would put its own in, which repeats posts"
    assert loader.batch_sampler.sampler is loader.sampler
    first = ids(loader)
    loader.sampler.set_epoch(1)
    assert ids(loader) != first
    loader.sampler.set_epoch(0)
    assert ids(loader) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begins_when_it_is_asked_for(make, workers):
    """Lightning makes the iterator of the first epoch before it says which one it is."""
    loader = make(num_workers=workers).train_dataloader()
    early = iter(loader)
    loader.sampler.set_epoch(1)
    other = make().train_dataloader()
    other.sampler.set_epoch(1)
    assert ids(early) == ids(other)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [1, 4])
def test_an_interrupted_epoch_goes_on(make, seen, workers):
    loader = make(num_workers=workers).train_dataloader()
    loader.sampler.set_epoch(2)
    whole = ids(loader)
    batches = iter(loader)
    for _ in range(seen):
        next(batches)
    torch.rand(5)
    state = loader.state_dict()
    drawn = torch.rand(3)

    resumed = make(num_workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state, "saved again before the first batch"
    resumed.sampler.set_epoch(2)
    rest = iter(resumed)
    first = next(rest)
    assert torch.equal(torch.rand(3), drawn), "the random numbers go on too"
    assert [first["id"], *ids(rest)] == whole[seen:]
    assert len(resumed) == len(whole)
    resumed.sampler.set_epoch(3)
    assert len(ids(resumed)) == len(whole), "the next epoch is whole"


@pytest.mark.parametrize("seen", [4, 6])
def test_a_finished_epoch_is_not_gone_on_with(make, seen):
    """Lightning ends an epoch early with `limit_train_batches`."""
    loader = make().train_dataloader()
    batches = iter(loader)
    for _ in range(seen):
        next(batches)
    resumed = make().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    for each in (resumed, loader):
        each.sampler.set_epoch(1)
    assert ids(resumed) == ids(loader)


def test_another_batch_size_is_said(make, caplog):
    loader = make().train_dataloader()
    next(iter(loader))
    resumed = make(batch_size=3).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert len(list(resumed)) == 7
    assert "after 1 of 6 batches of an epoch, which now has 8" in caplog.text


def test_processes_that_come_up_later_are_found(make, monkeypatch):
    loader = make().train_dataloader()
    assert len(loader) == 6
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert len(loader) == 3
        seen += [id_ for batch in ids(loader) for id_ in batch]
    assert sorted(seen) == [f"0{row:03d}" for row in range(POSTS)]




@pytest.mark.parametrize("options", [{"overfit_batches": 1}, {"overfit_batches": 0.4}, {"limit_train_batches": 0.34}])
def test_part_of_an_epoch(make, options, tmp_path):
    """`overfit_batches` shows the same posts in each epoch, in the order of the file."""
    data = make()
    model = TextOnly(data.labels, text_encoder=data.text_encoder)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch["id"])

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Watch()], num_sanity_val_steps=0, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(model, data)
    if "overfit_batches" in options:
        count = len(seen) // 2
        assert count == (1 if options["overfit_batches"] == 1 else 2)
        assert seen[:count] == seen[count:] == [[f"0{4 * n + row:03d}" for row in range(4)] for n in range(count)]
    else:
        assert len(seen) == 4
        assert seen[:2] != seen[2:]
