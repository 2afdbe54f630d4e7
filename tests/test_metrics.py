"""SpanF1 against seqeval, in both readings of malformed tags, in batches and over processes."""

import json
import pickle
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from seqeval.scheme import IOB2

from mner.labels import bio_labels, spans
from mner.metrics import SpanF1

LABELS = bio_labels(["PER", "LOC", "MISC"])
SEQEVAL = {"lenient": {}, "strict": {"mode": "strict", "scheme": IOB2}}
pytestmark = pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning")


def batch(rows, fill=-100):
    """Index rows as a padded tensor and its mask."""
    width = max(map(len, rows), default=0)
    padded = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows]).view(len(rows), width)
    return padded, torch.tensor([[at < len(row) for at in range(width)] for row in rows]).view(len(rows), width)


def names(rows):
    return [[LABELS[index] for index in row] for row in rows]


def random_rows(seed, count=40, longest=9):
    """Tags that are malformed more often than not; predictions agree with gold at about two places of three."""
    pick = random.Random(seed)
    gold = [[pick.randrange(len(LABELS)) for _ in range(pick.randint(1, longest))] for _ in range(count)]
    pred = [[tag if pick.random() < 0.7 else pick.randrange(len(LABELS)) for tag in row] for row in gold]
    return gold, pred


def measured(gold, pred, mode, size=None):
    metric = SpanF1(LABELS, mode)
    size = size or len(gold)
    for at in range(0, len(gold), size):
        tags, mask = batch(gold[at : at + size])
        metric.update(batch(pred[at : at + size], fill=99)[0], tags, mask)
    return metric


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize("seed", range(15))
def test_equals_seqeval(mode, seed):
    gold, pred = random_rows(seed)
    scores = measured(gold, pred, mode).compute()
    options = SEQEVAL[mode]
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert scores[name].item() == pytest.approx(function(names(gold), names(pred), **options), abs=1e-7)
        values = function(names(gold), names(pred), average=None, **options)  # in alphabetical order
        for type_, value in zip(["LOC", "MISC", "PER"], values, strict=True):
            assert scores[f"{type_}/{name}"].item() == pytest.approx(value, abs=1e-7)
    assert 0.05 < scores["f1"] < 0.95  # the comparison would mean little at the ends


rows_of_tags = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8), min_size=1, max_size=5
)


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@settings(max_examples=150, deadline=None)
@given(rows=rows_of_tags)
def test_counts_equal_the_sets_of_spans(mode, rows):
    gold, pred = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    metric = measured(gold, pred, mode)
    for place, type_ in enumerate(metric.types):
        of_gold, of_pred = (
            {(row, span) for row, tags in enumerate(names(side)) for span in spans(tags, mode) if span.type == type_}
            for side in (gold, pred)
        )
        counts = len(of_gold & of_pred), len(of_pred - of_gold), len(of_gold - of_pred)
        assert (metric.tp[place].item(), metric.fp[place].item(), metric.fn[place].item()) == counts


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_support_equals_seqeval(mode):
    gold, pred = random_rows(99)
    metric = measured(gold, pred, mode)
    if mode == "lenient":
        support = precision_recall_fscore_support(names(gold), names(pred))[3]
        assert (metric.tp + metric.fn).tolist() == [support[2], support[0], support[1]]
    assert (metric.tp + metric.fn).sum() == sum(len(spans(row, mode)) for row in names(gold))


@pytest.mark.parametrize(
    ("gold", "pred", "mode", "expected"),
    [
        ("B I O", "B I O", "lenient", (1, 0, 0)),
        ("B I O", "B O O", "lenient", (0, 1, 1)),  # ends earlier
        ("B O", "B I", "lenient", (0, 1, 1)),  # ends later, at the end of the row
        ("I I O", "B I O", "lenient", (1, 0, 0)),  # a stray I- opens
        ("I I O", "B I O", "strict", (0, 1, 0)),  # and here it does not
        ("I I O", "I I O", "strict", (0, 0, 0)),
        ("B B O", "B I O", "lenient", (0, 1, 2)),
        ("B L O", "B O O", "strict", (1, 0, 0)),  # I-LOC (L) behind B-PER ends PER and opens nothing
        ("B L O", "B O O", "lenient", (1, 0, 1)),
        ("B L I", "B O O", "strict", (1, 0, 0)),  # the I-PER behind I-LOC goes on with nothing
        ("O", "O", "lenient", (0, 0, 0)),
    ],
)
def test_counts_by_hand(gold, pred, mode, expected):
    index = {"O": 0, "B": 1, "I": 2, "L": 4}
    metric = measured([[index[tag] for tag in gold.split()]], [[index[tag] for tag in pred.split()]], mode)
    assert (metric.tp.sum().item(), metric.fp.sum().item(), metric.fn.sum().item()) == expected


def test_entities_do_not_cross_rows():
    metric = measured([[0, 1], [2, 0]], [[0, 1], [2, 0]], "lenient")
    assert metric.tp.tolist() == [2, 0, 0]


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_batches_and_padding_change_nothing(mode):
    gold, pred = random_rows(5)
    whole = measured(gold, pred, mode)
    for size in (1, 3, 16):
        parts = measured(gold, pred, mode, size)
        assert torch.equal(parts.tp, whole.tp)
        assert torch.equal(parts.fp, whole.fp)
        assert torch.equal(parts.fn, whole.fn)


def test_nothing_at_all_is_zero():
    metric = SpanF1(LABELS)
    metric.update(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    metric.update(torch.empty(0, 3, dtype=torch.long), torch.empty(0, 3, dtype=torch.long))
    metric.update(torch.empty(3, 0, dtype=torch.long), torch.empty(3, 0, dtype=torch.long))
    scores = metric.compute()
    assert len(scores) == 12
    assert all(score == 0 for score in scores.values())


def test_masks_of_any_integer_type():
    gold, pred = random_rows(6)
    tags, mask = batch(gold)
    metric = SpanF1(LABELS)
    metric.update(batch(pred)[0], tags, mask.to(torch.uint8))
    assert torch.equal(metric.tp, measured(gold, pred, "lenient").tp)


def test_reset_pickle_and_no_entries_in_state_dict():
    gold, pred = random_rows(7)
    metric = measured(gold, pred, "lenient")
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == metric.compute()
    assert not metric.state_dict()
    metric.reset()
    assert metric.tp.sum() == 0


def test_update_leaves_earlier_states_alone():
    """`ddp_spawn` shares memory between processes: a state changed in place is counted twice."""
    metric = SpanF1(LABELS)
    before = metric.tp, metric.fp, metric.fn
    metric.update(torch.tensor([[1, 3, 5]]), torch.tensor([[1, 5, 0]]))
    assert all(state.sum() == 0 for state in before)
    assert metric.tp.sum() == 1


@pytest.mark.parametrize(
    ("pred", "gold", "message"),
    [
        ([[0, 1]], [[0, 1, 2]], r"one shape \(batch, words\), but got \(1, 2\), \(1, 3\)"),
        ([[0, 7]], [[0, 1]], r"within 0\.\.6, but got 0\.\.7"),
        ([[0, 1]], [[0, -100]], r"within 0\.\.6, but got -100\.\.1"),
        ([0, 1], [0, 1], "one shape"),
    ],
)
def test_bad_input(pred, gold, message):
    with pytest.raises(ValueError, match=message):
        SpanF1(LABELS).update(torch.tensor(pred), torch.tensor(gold))


def test_bad_arguments():
    with pytest.raises(ValueError, match="to be one of"):
        SpanF1(LABELS, mode="loose")
    with pytest.raises(ValueError, match="`O` among them"):
        SpanF1(["B-PER", "I-PER"])
    with pytest.raises(ValueError, match="BIO tag"):
        SpanF1(["O", "E-PER"])


WORKER = """
import json, sys, torch
from mner.metrics import SpanF1
rank, store, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
labels, gold, pred = torch.load(file)
metric = SpanF1(labels)
part = slice(0, 11) if rank == 0 else slice(11, None)  # unequal parts, unequal numbers of updates
for row in range(len(gold))[part]:
    metric.update(pred[row][None], gold[row][None])
scores = metric.compute()
print(json.dumps([{name: score.item() for name, score in scores.items()}, metric.tp.tolist()]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path):
    gold, pred = random_rows(8)
    whole = measured(gold, pred, "lenient")
    torch.save((LABELS, [torch.tensor(row) for row in gold], [torch.tensor(row) for row in pred]), tmp_path / "data.pt")
    arguments = [str(tmp_path / "store"), str(tmp_path / "data.pt")]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), *arguments], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    (first, own_first), (second, own_second) = map(json.loads, outputs)
    assert first == second == {name: score.item() for name, score in whole.compute().items()}
    # Afterwards each has its own counts again, so that a second compute would not count the other's twice.
    assert [a + b for a, b in zip(own_first, own_second, strict=True)] == whole.tp.tolist()
    assert sum(own_first) > 0 < sum(own_second)


ODD = ["f1", "loss", "precision", "recall", "_", "O", "B", "I", "B-X", "PER/f1", "stricter", "val", "ÄÖ", "a b"]


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize("seed", range(5))
def test_odd_types_equal_seqeval(mode, seed):
    labels, pick = bio_labels(ODD), random.Random(seed)
    gold = [[pick.randrange(len(labels)) for _ in range(pick.randint(1, 9))] for _ in range(60)]
    pred = [[tag if pick.random() < 0.6 else pick.randrange(len(labels)) for tag in row] for row in gold]
    metric = SpanF1(labels, mode)
    tags, mask = batch(gold)
    metric.update(batch(pred, fill=99)[0], tags, mask)
    scores = metric.compute()
    assert len(scores) == 3 * (1 + len(ODD))
    named = [[[labels[index] for index in row] for row in side] for side in (gold, pred)]
    assert scores["f1"].item() == pytest.approx(f1_score(*named, **SEQEVAL[mode]))
    by_type = f1_score(*named, average=None, **SEQEVAL[mode])  # in alphabetical order
    assert [scores[f"{type_}/f1"].item() for type_ in sorted(ODD)] == pytest.approx(by_type.tolist())


def test_names_of_types_and_modes_cannot_meet():
    names = SpanF1(bio_labels(ODD)).compute()
    logged = [f"val/{mode}{name}" for mode in ("", "strict/") for name in names] + ["val/loss"]
    assert len(set(logged)) == len(logged)
    with pytest.raises(ValueError, match="'strict': strict scores are logged"):
        SpanF1(["O", "B-strict", "I-strict"])
