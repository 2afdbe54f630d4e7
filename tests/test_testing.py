"""`check_fusion`: our strategies pass, and each check fails for a strategy that is broken on purpose."""

import importlib
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mner.data.sample.batches import SampleBatches
from mner.fusion import Concatenation
from mner.testing import CHECKS, FusionCheckError, check_fusion
from tests.fusion.test_strategies import STRATEGIES

from . import broken_fusions as broken


@pytest.mark.slow
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_our_strategies_with_stored_regions(cls):
    check_fusion(cls)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [cls for cls in STRATEGIES if cls.uses_image], ids=lambda cls: cls.__name__)
def test_our_strategies_with_images(cls, monkeypatch):
    if cls is not Concatenation:  # the image encoder is compiled alike for all of them
        monkeypatch.delitem(CHECKS, "compile")
    check_fusion(cls, image_encoder="test_resnet")


ALL_LOSSES = "losses; save and load; missing images; no entities; autocast"
# The checks that a strategy fails, all of them; and a part of what the first says.
BROKEN = [
    (broken.Unbuildable, "constructor", "KeyError: 'kernel' (broken_fusions.py:"),
    (broken.NeedsTheMoon, "constructor", "Expected `needs` to name some of boxes, scores, object_names"),
    (broken.LacksALabel, "emissions", "expected shape (b, w, l) = (6, "),
    (broken.NotANumber, "emissions", "some are not finite"),
    (broken.TagsPadding, "emissions", "expected a label for each word"),
    (broken.Spare, "gradient", "spare.weight has none"),
    (broken.Zeroed, "gradient", "that of scale.weight is always 0"),
    (broken.NeedsNeighbours, "losses", "one post: expected a finite number as `contrast`, but got"),
    (broken.LossOfEach, ALL_LOSSES, "six posts: expected a finite number as `tagging`"),
    (broken.InfiniteSlope, ALL_LOSSES, "six posts: expected a finite number as the grad"),
    (broken.MeanOfPosts, "batch of one", "(evaluation mode)"),
    (broken.BatchNorm, "losses; batch of one", "one post of one word: ValueError: Expected more than 1 value"),
    (broken.BatchNorm, "batch of one; losses", "(training mode)"),
    (broken.MeanOfPaddedWords, "padding of words; batch of one", "three more padded words change emissions by"),
    (broken.LossOfPaddedWords, "padding of words", "three more padded words change the loss by"),
    (broken.MeanOfPaddedPieces, "padding of word pieces; batch of one", "padded word pieces change emissions by"),
    (broken.MeanOfPaddedRegions, "padding of regions; batch of one", "three more padded regions change emissions by"),
    (broken.FirstRegion, "order of regions", "say `region_order_matters = True`"),
    (broken.Forgets, "save and load", "is a part not in its state?"),
    (broken.NoParts, "save and load", "TypeError: 'str' object is not callable"),
    (broken.ReadsTheField, "missing images", "a batch without fields for images: KeyError: 'regions'"),
    (broken.ReadsWhatIsMissing, "missing images", "numbers in place of a missing image change emissions by"),
    (broken.UnboundWithoutImages, "missing images; batch of one", "posts without images: expected a finite number"),
    (broken.MeanOfEntities, "no entities", "expected a finite number as `size`, but got nan"),
    (broken.OwnPrecision, "autocast", "RuntimeError: Index put requires the source and destination dtypes match"),
    (broken.Rough, "autocast", "emissions in bfloat16 differ by"),
    (broken.OtherwiseCompiled, "compile", "traced emissions differ by"),
    (broken.NoDistribution, "attention maps", "attention has weights that sum to"),
    (broken.LooksAtPadding, "attention maps; batch of one; padding of regions", "attention attends to padded regions"),
    (broken.ReadsWords, "attention maps", "see its `attends_to`"),
    (broken.Blind, "use of the image; gradient", "another image changes no emission"),
    (broken.Peeks, "use of the image", "although `uses_image` is False"),
]


def fails(cls, monkeypatch, **options):
    if "Compiled" not in cls.__name__:  # most of the time goes into tracing
        monkeypatch.delitem(CHECKS, "compile", raising=False)
    with pytest.raises(FusionCheckError) as caught:
        check_fusion(cls, **options)
    return caught.value


@pytest.mark.parametrize(("cls", "checks", "said"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_strategy_is_found(cls, checks, said, monkeypatch):
    problems = fails(cls, monkeypatch).problems
    assert {line.split(":")[0] for line in problems} == set(checks.split("; "))
    assert any(line.startswith(checks.split("; ")[0]) and said in line for line in problems), problems


def test_each_check_is_proven_able_to_fail():
    assert {checks.split("; ")[0] for _, checks, _ in BROKEN} == {"constructor", *CHECKS}


@pytest.mark.parametrize("image_encoder", [None, "test_resnet"])
@pytest.mark.parametrize("cls", [broken.Sound, broken.Looking])
def test_what_they_break_is_sound(cls, image_encoder):
    check_fusion(cls, **({"image_encoder": image_encoder} if image_encoder else {}))


@pytest.mark.parametrize(
    ("cls", "checks"),
    [
        (broken.FirstRegion, "order of regions"),
        (broken.MeanOfPaddedRegions, "padding of regions"),
        (broken.Blind, "use of the image; gradient"),
    ],
)
def test_a_broken_strategy_is_found_with_images(cls, checks, monkeypatch):
    problems = fails(cls, monkeypatch, image_encoder="test_resnet").problems
    assert {line.split(":")[0] for line in problems} == set(checks.split("; "))


def test_the_message_has_a_line_for_each_problem_and_the_exception_as_cause(monkeypatch):
    error = fails(broken.ReadsTheField, monkeypatch)
    assert isinstance(error, AssertionError)
    lines = str(error).splitlines()
    assert lines[0] == "ReadsTheField does not hold what every strategy must:"
    assert [line.removeprefix("- ") for line in lines[1:]] == error.problems
    assert error.__cause__ is None
    assert isinstance(fails(broken.Unbuildable, monkeypatch).__cause__, KeyError)


def test_nothing_of_the_callers_is_touched(monkeypatch, caplog):
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    first = fails(broken.MeanOfPaddedWords, monkeypatch).problems
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    torch.manual_seed(7)
    with torch.no_grad():  # gradients are taken even so
        assert fails(broken.MeanOfPaddedWords, monkeypatch).problems == first
    assert not caplog.records


@pytest.mark.parametrize("cls", [broken.PrefersTheFirst, broken.StartsShut])
def test_what_is_said_or_sound_passes(cls, monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")
    check_fusion(cls)


def test_why_a_strategy_is_not_traced_is_printed(capsys):
    check_fusion(broken.Untraceable)
    assert capsys.readouterr().out == "Untraceable is not traced by torch.compile: it counts its calls\n"


def test_a_class_inside_of_a_function_passes(monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")

    class Local(broken.Sound):
        pass

    check_fusion(Local, hidden_size=24, text_encoder="tiny")


@pytest.mark.parametrize("options", [{}, {"image_encoder": "test_resnet"}], ids=["stored", "images"])
def test_a_strategy_that_needs_more_gets_it(options, monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")
    check_fusion(broken.Needy, **options)
    problems = fails(broken.NeedyInOrder, monkeypatch, **options).problems
    assert [line.split(":")[0] for line in problems] == ["order of regions"]


@pytest.mark.parametrize("image_encoder", [None, "test_resnet"])
def test_what_is_needed_has_its_shape_and_belongs_to_the_post(image_encoder):
    batches = SampleBatches(image_encoder=image_encoder, needs=broken.ALL_NEEDS)
    batches.cells = 25 if image_encoder else 1
    batch = batches()
    b, r = 6, 25 if image_encoder else batch["regions"].shape[1]
    assert batch["region_boxes"].shape == (b, r, 4)
    assert (batch["region_boxes"][..., :2] <= batch["region_boxes"][..., 2:]).all()
    assert batch["region_scores"].shape == batch["region_group"].shape == (b, r)
    assert [len(names) for names in batch["object_names"]] == [r] * b
    assert batch["relation"].isnan().sum() == 1
    for row in range(b):
        alone = batches([row])
        count = len(alone["object_names"][0])
        assert batch["object_names"][row][:count] == alone["object_names"][0]
        assert set(batch["object_names"][row][count:]) <= {""}
        for name in ("region_boxes", "region_scores", "region_group"):
            assert batch[name][row, :count].equal(alone[name][0])
            assert not batch[name][row, count:].any()
    assert set(batches(images="absent")) & {"image", "regions", "region_mask"} == set()
    assert batches(images="absent")["region_boxes"].shape == (b, 1, 4)


DOCS = Path(__file__).parent.parent / "docs"


def listings(page):
    return re.findall(r"^```(python|text)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.M)


@pytest.fixture
def strategy_of(tmp_path, monkeypatch):
    """The strategy of a listing, in a file of the user's."""

    def load(code):
        (tmp_path / "my_fusion.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "my_fusion", raising=False)
        module = importlib.import_module("my_fusion")
        (cls,) = (it for it in vars(module).values() if isinstance(it, type) and it.__module__ == "my_fusion")
        return cls

    yield load
    sys.modules.pop("my_fusion", None)


@pytest.mark.parametrize("code", [code for _, code in listings("fusion.md") if "class " in code])
def test_what_the_page_of_fusions_shows_holds(code, strategy_of, monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")
    check_fusion(strategy_of(code))


def test_the_page_shows_a_real_failure(strategy_of, monkeypatch):
    (code, output) = (code for _, code in listings("testing.md") if "GatedMean" in code)
    found = str(fails(strategy_of(code), monkeypatch))
    plain = [re.sub(r"\d+\.\d+", "0.1", text.rstrip()) for text in (found, output)]  # torch may draw other numbers
    assert plain[0] == plain[1]


def test_the_page_names_each_check():
    table = re.findall(r"^\| ([a-z, ]+) \|", (DOCS / "testing.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(", ".join(table).split(", ")) == sorted(["name", *CHECKS])
