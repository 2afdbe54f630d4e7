"""Batches that are tagged at once: twins of a tagger, and what each thread gets."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mner.serving.server import load_model
from mner.serving.service import Service
from mner.tagger.tagger import Tagger
from mner.tagger.twin import MOST, twin, workers_for
from tests.serving.test_service import refused, said, wanted

TEXTS = [f"Anna {'very ' * (number % 7)}number{number} visits Lagos and Old Town" for number in range(60)]


@pytest.fixture(scope="module")
def tagger(text_checkpoint):
    return Tagger.load(text_checkpoint, device="cpu")


def tensors(tagger):
    return {name: value.data_ptr() for name, value in tagger.model.state_dict(keep_vars=True).items()}


def test_a_twin_has_the_weights_and_layers_of_its_own(tagger):
    other = twin(tagger)
    assert tensors(other) == tensors(tagger)
    assert not {id(part) for part in other.model.modules()} & {id(part) for part in tagger.model.modules()}
    assert not other.model.training
    assert other.decoder.model is other.model
    assert list(map(wanted, other(TEXTS))) == list(map(wanted, tagger(TEXTS)))


def test_a_twin_tags_while_the_other_does(tagger, monkeypatch):
    both = threading.Barrier(2)
    for one in (tagger, other := twin(tagger)):
        real = one.decoder.label_scores
        monkeypatch.setattr(one.decoder, "label_scores", lambda batch, real=real: (both.wait(60), real(batch))[1])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: one(TEXTS[:2]), (tagger, other)))
    assert wanted(found[0][1]) == wanted(found[1][1])


def test_two_batches_are_tagged_at_once(serve, text_checkpoint, monkeypatch):
    client = serve(text_checkpoint, workers=2, batch_size=1)
    both = threading.Barrier(2)
    stream = Tagger.stream
    monkeypatch.setattr(Tagger, "stream", lambda self, *options: (both.wait(60), stream(self, *options))[1])
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda text: client.post("/tag", json={"text": text}), TEXTS[:2]))
    assert [answer.json()["text"] for answer in answers] == TEXTS[:2]


@pytest.mark.parametrize("workers", [2, 3])
def test_each_request_gets_its_own(serve, text_checkpoint, tagger, workers):
    client = serve(text_checkpoint, workers=workers, batch_size=4)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda text: client.post("/tag", json={"text": text}).json(), TEXTS * 2))
    assert [answer["text"] for answer in answers] == TEXTS * 2
    assert [said(answer) for answer in answers] == [wanted(found) for found in tagger(TEXTS)] * 2
    assert client.service.batcher.alive


def test_after_a_reload_all_have_the_new_model(text_checkpoint, image_checkpoint):
    models = iter([load_model(str(path), device="cpu") for path in (text_checkpoint, image_checkpoint)])
    service = Service(lambda: next(models), workers=3)
    old = tensors(service.model.tagger)
    service.batcher.model = next(models)
    _, taggers = service.batcher._served
    assert len(taggers) == 3
    assert all(tensors(one) == tensors(service.model.tagger) != old for one in taggers)


def test_a_model_without_twins_is_not_taken_at_a_reload(serve, text_checkpoint, monkeypatch):
    client = serve(text_checkpoint, workers=2, token="a token that is long enough")
    before = client.service.model

    def fails(tagger):
        raise TypeError("cannot be copied")

    monkeypatch.setattr("mner.serving.batcher.twin", fails)
    answer = client.post("/reload", headers={"Authorization": "Bearer a token that is long enough"})
    refused(answer, 500, "reload_failed")
    assert client.service.model is before


def test_a_batch_alone_has_all_threads_and_several_share_them(serve, text_checkpoint, monkeypatch):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        client = serve(text_checkpoint, workers=2, batch_size=1)
        seen, both, stream = [], threading.Barrier(2), Tagger.stream

        def watched(self, *options):
            seen.append(torch.get_num_threads())
            return stream(self, *options)

        monkeypatch.setattr(Tagger, "stream", watched)
        client.post("/tag", json={"text": TEXTS[0]})
        assert seen == [4]

        def together(self, *options):
            both.wait(60)
            return watched(self, *options)

        monkeypatch.setattr(Tagger, "stream", together)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda text: client.post("/tag", json={"text": text}), TEXTS[:2]))
        assert sorted(seen[1:]) in ([2, 2], [2, 4])  # the first may have come before the second was there
    finally:
        torch.set_num_threads(threads)


def test_how_many_there_are(tagger, text_checkpoint, monkeypatch):
    for threads, expected in ((1, 1), (2, 2), (64, MOST)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert workers_for(tagger) == expected
    captioned = Tagger.load(text_checkpoint, device="cpu", captioner=lambda images: ["a caption"] * len(images))
    assert workers_for(captioned) == 1  # it captions for one thread at a time
    assert Service(lambda: load_model(str(text_checkpoint), device="cpu")).batcher.workers == MOST
    with pytest.raises(ValueError, match="`workers` to be at least 1, but got 0"):
        Service(lambda: load_model(str(text_checkpoint), device="cpu"), workers=0)
