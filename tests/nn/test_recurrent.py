"""Recurrent layers beside PyTorch's own."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from mner.nn.recurrent import LSTM, ONNX, BiLSTM

LENGTHS = [4, 1, 6]


@pytest.fixture
def sequences():
    mask = torch.arange(6)[None] < torch.tensor(LENGTHS)[:, None]
    return torch.randn(3, 6, 5), mask


def reference(layer, hidden, layers):
    """PyTorch's bidirectional LSTM with the same weights; it reads packed sequences."""
    theirs = nn.LSTM(5, hidden, layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for number in range(layers):
            for name, _ in layer.forward_layers[number].named_parameters():
                target = name.replace("_l0", f"_l{number}")
                getattr(theirs, target).copy_(getattr(layer.forward_layers[number], name))
                getattr(theirs, f"{target}_reverse").copy_(getattr(layer.backward_layers[number], name))
    return theirs


@pytest.mark.parametrize("layers", [1, 3])
def test_both_directions_equal_packed_sequences(sequences, layers):
    states, mask = sequences
    ours = BiLSTM(5, 4, layers)
    theirs = reference(ours, 4, layers)
    packed = nn.utils.rnn.pack_padded_sequence(states, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    expected, (last, _) = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    torch.testing.assert_close(ours(states, mask), expected)
    torch.testing.assert_close(ours.last(states, mask), torch.cat([last[-2], last[-1]], -1))


def test_padding_changes_nothing_and_gets_no_gradient(sequences):
    states, mask = sequences
    layer = BiLSTM(5, 4, 2)
    other = torch.where(mask[..., None], states, 1e3).requires_grad_()
    torch.testing.assert_close(layer(other, mask), layer(states, mask))
    layer(other, mask).square().sum().backward()
    assert other.grad[mask].abs().min() > 0
    assert not other.grad[~mask].any()


def test_an_empty_sequence_has_zeros():
    layer = BiLSTM(5, 4)
    mask = torch.tensor([[True, True], [False, False]])
    states = torch.randn(2, 2, 5)
    assert not layer.last(states, mask)[1].any()
    assert not layer(states, mask)[1].any()


def test_autocast_does_not_reach_it():
    layer, states = LSTM(5, 4), torch.randn(2, 3, 5)
    plain = nn.LSTM(5, 4, batch_first=True)
    plain.load_state_dict(layer.state_dict())
    expected, _ = plain(states)
    with torch.autocast("cpu", torch.bfloat16):
        with suppress(RuntimeError):  # rounding is what is guarded against, or an error where no bf16 is to be had
            assert plain(states)[0].dtype == torch.bfloat16
        found, rounded = layer(states), layer(states.bfloat16())
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == rounded.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_exported_it_reads_any_length(tmp_path, sequences):
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    states, mask = sequences
    layer = BiLSTM(5, 4, 2).eval()
    free = dict.fromkeys(range(2), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        layer, (states, mask), dynamo=True, dynamic_shapes=(free, free), custom_translation_table=ONNX, verbose=False
    )
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    assert any(node.op_type == "LSTM" for node in program.model.graph), "one operator, not a loop of many"
    for given in ((states, mask), (torch.randn(1, 9, 5), torch.arange(9)[None] < 8)):
        names = [entry.name for entry in session.get_inputs()]
        (found,) = session.run(None, dict(zip(names, (some.numpy() for some in given), strict=True)))
        torch.testing.assert_close(torch.from_numpy(found), layer(*given))
