"""CM, VAM and CAM as strategies: what they add to their modules of tensor maths, and to the base."""

import pytest
import torch

from mner.batch import Batch
from mner.fusion.co_attention import CoAttention
from mner.fusion.concatenation import Concatenation, ConcatenationWithoutCharacters
from mner.fusion.visual_attention import VisualAttention
from mner.labels import bio_labels

F = 7
LABELS = bio_labels(["PER", "LOC"])
STRATEGIES = [Concatenation, ConcatenationWithoutCharacters, VisualAttention, CoAttention]


def make_batch(words: list[tuple[str, ...]], has_image: list[bool]) -> Batch:
    """Posts with a word piece a word between [CLS] and [SEP], and two stored regions."""
    b, w = len(words), max(map(len, words))
    lengths = torch.tensor([len(post) for post in words])
    return {
        "token_ids": torch.randint(5, 40, (b, w + 2)),
        "token_mask": torch.arange(w + 2) < lengths[:, None] + 2,
        "segment_ids": torch.zeros(b, w + 2, dtype=torch.int64),
        "word_starts": (torch.arange(1, w + 1) * (torch.arange(w) < lengths[:, None])),
        "word_mask": torch.arange(w) < lengths[:, None],
        "tags": torch.zeros(b, w, dtype=torch.int64),
        "regions": torch.randn(b, 2, F),
        "region_mask": torch.tensor(has_image)[:, None].expand(b, 2),
        "has_image": torch.tensor(has_image),
        "words": words,
        "id": [str(row) for row in range(b)],
        "image_id": [str(row) if image else None for row, image in enumerate(has_image)],
    }


@pytest.fixture
def batch() -> Batch:
    return make_batch([("Anna", "visits", "Rome"), ("Bo",)], [True, False])


@pytest.fixture
def build(bert_folder):
    def build_(strategy, **options):
        return strategy(LABELS, text_encoder=bert_folder, region_width=F, dropout=0.0, **options).eval()

    return build_


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_posts_with_and_without_image_are_tagged(strategy, build, batch):
    module = build(strategy)
    emissions = module.emissions(batch)
    assert emissions.shape == (2, 3, len(LABELS))
    assert emissions.isfinite().all()
    losses = module.losses(batch)
    sum(losses.values()).backward()
    assert module.no_image.grad.abs().max() > 0
    assert [len(path) for path in module(batch)] == [3, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_image_gives_other_emissions(strategy, build, batch):
    module = build(strategy)
    before = module.emissions(batch)
    after = module.emissions({**batch, "regions": batch["regions"] * 3})
    assert (after - before)[0].abs().amax(-1).min() > 1e-5
    torch.testing.assert_close(after[1, :1], before[1, :1])  # the post without image sees `no_image` only


@pytest.mark.parametrize(
    ("strategy", "options", "width"),
    [
        (Concatenation, {}, 3 * 32),
        (Concatenation, {"projected_width": 5, "character_width": 4}, 15),
        (ConcatenationWithoutCharacters, {}, 2 * 32),
        (ConcatenationWithoutCharacters, {"projected_width": 5, "hidden_size": 8}, 10),
        (VisualAttention, {"attention_width": 6}, 32),
        (VisualAttention, {"hidden_size": 8}, 8),
        (CoAttention, {"attention_width": 6}, 2 * 32),
        (CoAttention, {"hidden_size": 8}, 2 * 8),
    ],
)
def test_options_reach_the_module_and_the_checkpoint(strategy, options, width, build, batch):
    module = build(strategy, **options)
    assert module.head.in_features == module.fused_width == width
    assert module.emissions(batch).shape == (2, 3, len(LABELS))
    assert {name: module.hparams[name] for name in options} == options


@pytest.mark.parametrize(("strategy", "reads"), [(Concatenation, True), (ConcatenationWithoutCharacters, False)])
def test_only_cm_with_characters_reads_the_spelling(strategy, reads, build, batch):
    module = build(strategy)
    upper = {**batch, "words": [("ANNA", "visits", "Rome"), ("Bo",)]}  # the same word pieces in another case
    change = (module.emissions(upper) - module.emissions(batch)).abs().amax(-1)
    assert (change[0, 0] > 1e-5) == reads
    assert change[0, 1:].max() == 0
    assert change[1, 0] == 0


def test_characters_follow_the_words_of_a_cut_post(build, batch):
    """Where the data set cuts a long post, `words` may name more words than the batch has places."""
    module = build(Concatenation)
    longer = {**batch, "words": [(*batch["words"][0], "and", "Paris"), batch["words"][1]]}
    torch.testing.assert_close(module.emissions(longer), module.emissions(batch), rtol=0, atol=0)
