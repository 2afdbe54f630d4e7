import json

import pytest
import pytorch_lightning as pl
import torch

from mner.cli import main
from mner.data.formats.predictions import read_predictions
from mner.errors import MNERError
from mner.fusion import FusionModule, TextOnly, UnifiedMultimodalTransformer
from mner.labels import spans, tags_of
from mner.nn.neighbours import WordNeighbours, model_mark, owner, use_neighbours
from mner.nn.posteriors import decode_posteriors
from mner.probing.probe import restored_data
from mner.tagger.neighbours import choose_neighbours
from mner.tagger.tagger import Tagger
from tests.conftest import WORDS
from tests.tagging import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(posts_folder, bert_folder, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "best.ckpt", TextOnly, posts_folder, bert_folder)


@pytest.fixture(scope="module")
def store(checkpoint, posts_folder, tmp_path_factory):
    """The splits have the same posts, and a post's own words are left out, so that others have to do."""
    file = tmp_path_factory.mktemp("store") / "neighbours.safetensors"
    options = ["--k", "[1,4]", "--temperature", "[0.1]", "--weight", "[0.5,1.0]", "--device", "cpu"]
    assert main(["neighbours", str(checkpoint), str(posts_folder), str(file), *options]) == 0
    return file


def test_the_words_of_the_training_split_are_stored(checkpoint, posts_folder, store):
    found, model = WordNeighbours.load(store), FusionModule.load_from_checkpoint(checkpoint).eval()
    assert len(found.gold) == sum(len(words) for words, _ in WORDS)
    assert found.model == model_mark(model)
    words, tags = WORDS[0]
    place = (found.owners == owner(words)).nonzero().flatten()
    assert [found.labels[label] for label in found.gold[place].tolist()] == tags
    data = restored_data(model, posts_folder)
    dataset = data.dataset("train")
    batch = data.collate(dataset)([dataset[0]])
    states = model.encode(batch)[0].detach()  # what the last layer gets, of text alone
    torch.testing.assert_close(found.vectors[place], torch.nn.functional.normalize(states, dim=-1), atol=1e-3, rtol=0)


def test_settings_are_tried_on_valid(checkpoint, posts_folder, capsys):
    model = FusionModule.load_from_checkpoint(checkpoint)
    data = restored_data(model, posts_folder)
    found = choose_neighbours(model, data, [1, 4], [0.1, 1.0], [0.0, 0.5, 1.0])
    assert len(found.tried) == 12
    assert {setting.f1 for setting in found.tried if setting.weight == 0} == {found.posteriors}
    assert [setting.f1 for setting in found.tried] == sorted((setting.f1 for setting in found.tried), reverse=True)
    best = found.tried[0]
    if best.f1 > found.alone:
        assert (found.store.k, found.store.temperature, found.store.weight) == best[:3]
    else:
        assert found.store.weight == 0
    # The score that was promised is the one that predictions get.
    store = found.store
    store.k, store.temperature, store.weight = next(one for one in found.tried if one.weight == 0.5)[:3]
    promised = next(one for one in found.tried if one.weight == 0.5).f1
    use_neighbours(model, store)
    (scores,) = [_f1(model, data)]
    assert scores == pytest.approx(promised)
    for wrong in ({"k": []}, {"temperature": [0.0]}, {"weight": [2.0]}):
        with pytest.raises(ValueError, match="Expected k of at least 1"):
            choose_neighbours(model, data, **wrong)


def _f1(model, data):
    from mner.metrics import SpanF1

    dataset = data.dataset("valid")
    batch = data.collate(dataset)([dataset[row] for row in range(len(dataset))])
    with torch.no_grad():
        paths = model(batch)
    metric = SpanF1(model.labels)
    pred = torch.nn.utils.rnn.pad_sequence([torch.tensor(path) for path in paths], batch_first=True)
    metric.update(pred, batch["tags"], batch["word_mask"])
    return metric.compute()["f1"].item()


def test_a_tagger_tag_and_predict_give_the_mixture(checkpoint, posts_folder, store, tmp_path, capsys):
    chosen = WordNeighbours.load(store)
    chosen.k, chosen.temperature, chosen.weight = 3, 0.2, 0.8
    file = tmp_path / "mine.safetensors"
    chosen.save(file)
    tagger = Tagger.from_checkpoint(checkpoint, neighbours=file, device="cpu")
    plain = FusionModule.load_from_checkpoint(checkpoint).eval()
    data = restored_data(plain, posts_folder)
    dataset = data.dataset("valid")
    expected = []
    for row in range(len(dataset)):
        batch = data.collate(dataset)([dataset[row]])
        with torch.no_grad():
            marginals = plain.crf.marginals(plain.emissions(batch), batch["word_mask"])
            states = plain.encode(batch)
        mixed = chosen.mix(marginals, states, batch["words"], batch["word_mask"])
        (path,) = decode_posteriors(mixed, batch["word_mask"], plain.labels)
        expected.append([plain.labels[label] for label in path])
    words = [list(words) for words, _ in WORDS]
    found = [tagger(words=some) for some in words]
    assert [list(one.tags) for one in found] == expected
    alone = Tagger.from_checkpoint(checkpoint, device="cpu")
    assert [list(alone(words=some).tags) for some in words] != expected
    for one in found:  # well-formed BIO, with a probability for each entity
        assert list(one.tags) == tags_of(spans(one.tags), len(one.tags))
        assert all(0 < entity.score <= 1 for entity in one)
    whole = torch.load(checkpoint, weights_only=True)
    of_lightning = {"pytorch-lightning_version": pl.__version__, "global_step": 0, "epoch": 0}
    torch.save({**whole, **of_lightning}, tmp_path / "pl.ckpt")
    out = tmp_path / "predictions.jsonl"
    main([
        "predict", "--ckpt_path", str(tmp_path / "pl.ckpt"), "--data", "Twitter2017DataModule",
        "--data.root", str(posts_folder), "--split", "valid", "--output", str(out), "--neighbours", str(file),
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    ])  # fmt: skip
    predicted = read_predictions(out)
    assert [list(post.pred) for post in predicted.posts] == expected
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps({"tokens": some}) + "\n" for some in words))
    tag = ["tag", str(tmp_path / "posts.jsonl"), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert main([*tag, "--neighbours", str(file), "--output", str(tmp_path / "tagged.jsonl")]) == 0
    tagged = [json.loads(line) for line in (tmp_path / "tagged.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["tags"] for line in tagged] == expected
    assert main([*tag, "--neighbours", str(store), "--output", str(tmp_path / "tagged.jsonl")]) == 2
    assert main([*tag, "--neighbours", str(file), "--engine", "onnx", "--output", str(tmp_path / "other.jsonl")]) == 2
    told = capsys.readouterr().err
    assert "neighbours" in told.splitlines()[-2], "another store is another run"
    assert told.splitlines()[-1].endswith(
        "Expected engine torch with neighbours, which a graph of scores has not, but got onnx"
    )
    header = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert header["neighbours"] == {"k": 3, "temperature": 0.2, "weight": 0.8}


def test_a_store_of_another_model_is_refused(checkpoint, store, posts_folder, bert_folder, tmp_path):
    other = FusionModule.load_from_checkpoint(checkpoint)
    torch.nn.init.normal_(other.head.weight)
    with pytest.raises(MNERError, match="to be of this model"):
        use_neighbours(other, store)
    with pytest.raises(MNERError, match="a model in PyTorch"):
        use_neighbours(object(), store)


def test_weight_0_leaves_the_marginals(checkpoint, posts_folder, store):
    model = FusionModule.load_from_checkpoint(checkpoint).eval()
    data = restored_data(model, posts_folder)
    batch = data.collate(data.dataset("valid"))([data.dataset("valid")[0]])
    with torch.no_grad():
        marginals = model.crf.marginals(model.emissions(batch), batch["word_mask"])
        loaded = WordNeighbours.load(store)
        loaded.weight = 0.0
        use_neighbours(model, loaded)
        torch.testing.assert_close(model.label_scores(batch).exp(), marginals, atol=1e-6, rtol=0)
        loaded.weight = 1.0
        alone = model.label_scores(batch).exp()
    assert set(alone.sum(-1).flatten().round(decimals=4).tolist()) == {1.0}
    assert model.decodes_posteriors


def test_strategies_with_an_image_and_posteriors_of_their_own(posts_folder, bert_folder, tmp_path):
    path = save_checkpoint(
        tmp_path / "umt.ckpt", UnifiedMultimodalTransformer, posts_folder, bert_folder,
        image_encoder="test_resnet", image_weights=None, images="images",
    )  # fmt: skip
    model = FusionModule.load_from_checkpoint(path)
    data = restored_data(model, posts_folder, images="images")
    found = choose_neighbours(model, data, [2], [0.1], [1.0])
    assert found.store.vectors.shape == (29, model.head.in_features)
