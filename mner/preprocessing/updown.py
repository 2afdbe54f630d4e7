"""Bottom-up and top-down attention as a captioner: Anderson et al. (2018), the captioner of Chen et al. (2021).

For each word one LSTM, which sees the mean region, the word before and the other LSTM's state, looks at the regions;
the other one, which sees what was looked at, says the word:

::

    h1 = LSTM1([h2 before; v; E w])     v: the mean region
    a = softmax over regions of  w_a . tanh(W_v v_i + W_h h1)
    h2 = LSTM2([sum_i a_i v_i; h1]) -> softmax over words

Names and shapes of the weights are those of the public PyTorch port (github.com/ruotianluo/ImageCaptioning.pytorch,
`caption_model: updown`), which passes words, regions and their mean through a layer with ReLU first. Its public weights
were trained on the regions of the Visual Genome detector of the paper, 2048 numbers each, which nobody packages: they
come as stored features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mner.encoders.weights import load_by_name, read_weights
from mner.errors import CheckpointError
from mner.nn.beam_search import State, beam_search
from mner.nn.masking import masked_mean, masked_softmax
from mner.preprocessing.vocabulary_file import read_words, vocabulary_file
from mner.runtime import pick_device

START = END = 0
"""The number of no word: a caption begins with it and ends with it."""


class UpDown(nn.Module):
    """The network.

    Args:
        words: v, words of the vocabulary and one for start and end.
        word_width: Of a word's vector.
        width: Of hidden states, R.
        region_width: Of a region, f.
        attention_width: Of the layer that scores regions.

    Shapes:
        regions (b, r, f), mask (b, r) -> mean (b, R), regions (b, r, R) -> with words (b,), logits (b, v)
    """

    def __init__(self, words: int, word_width: int, width: int, region_width: int, attention_width: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(words, word_width), nn.ReLU())
        self.fc_embed = nn.Sequential(nn.Linear(region_width, width), nn.ReLU())
        self.att_embed = nn.Sequential(nn.Linear(region_width, width), nn.ReLU())
        self.logit = nn.Linear(width, words)
        self.ctx2att = nn.Linear(width, attention_width)
        attention = {"h2att": nn.Linear(width, attention_width), "alpha_net": nn.Linear(attention_width, 1)}
        self.core = nn.ModuleDict(
            {
                "att_lstm": nn.LSTMCell(word_width + 2 * width, width),
                "lang_lstm": nn.LSTMCell(2 * width, width),
                "attention": nn.ModuleDict(attention),
            }
        )
        self.width = width
        self.region_width = region_width
        self.requires_grad_(False).eval()

    def encode(self, regions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The mean region (b, R) and the regions (b, r, R), as the LSTMs read them."""
        return self.fc_embed(masked_mean(regions, mask)), self.att_embed(regions)

    def step(
        self, words: Tensor, mean: Tensor, regions: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, State, Tensor]:
        """Logits (b, v) of the next word after `words` (b,), the state after it, and the attention (b, r)."""
        h1, c1, h2, c2 = state  # (b, R) each
        core: Any = self.core
        h1, c1 = core["att_lstm"](torch.cat([h2, mean, self.embed(words)], dim=1), (h1, c1))
        query = core["attention"]["h2att"](h1)[:, None]  # (b, 1, a)
        logits = core["attention"]["alpha_net"](torch.tanh(self.ctx2att(regions) + query))[..., 0]  # (b, r)
        weights = masked_softmax(logits, mask)
        seen = (weights[:, None] @ regions)[:, 0]  # (b, R)
        h2, c2 = core["lang_lstm"](torch.cat([seen, h1], dim=1), (h2, c2))
        return self.logit(h2), (h1, c1, h2, c2), weights


def load_updown(path: str | Path) -> UpDown:
    """The network of a public file, whose sizes are read from it.

    Raises:
        CheckpointError: If the file holds something else.
    """
    state = read_weights(path)
    needed = ("embed.0.weight", "att_embed.0.weight", "ctx2att.weight", "core.lang_lstm.weight_ih")
    lacking = [name for name in needed if name not in state or state[name].dim() != 2]
    if lacking:
        raise CheckpointError(
            f"{path} holds no captioner with bottom-up and top-down attention: it lacks {lacking[0]} (model-best.pth "
            "of an `updown` model has it)"
        )
    words, word_width = state["embed.0.weight"].shape
    width, region_width = state["att_embed.0.weight"].shape
    model = UpDown(words, word_width, width, region_width, len(state["ctx2att.weight"]))
    load_by_name(model, state, path)
    return model


class UpDownCaptioner:
    """Regions of images -> one caption each.

    As in the port, captions have 20 words at most, the word UNK is never said, and a caption that has ended makes room
    for another beam.

    Args:
        weights: Public file of weights, `model-best.pth`.
        vocabulary: `infos_….pkl` that belongs to it, or `cocotalk.json`; None for the one beside the weights.
        max_new_tokens: Longest caption, in words; None for 20.
        num_beams: Beams; None for 5.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: If weights or vocabulary are missing, or do not belong together.
    """

    def __init__(
        self,
        weights: str | Path,
        vocabulary: str | Path | None = None,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        device: str = "auto",
    ) -> None:
        self.model = load_updown(weights).to(pick_device(device))
        file = vocabulary_file(
            weights, vocabulary, ("infos*.pkl", "cocotalk*.json"), "infos_….pkl of the same model, or cocotalk.json"
        )
        self.words = read_words(file)
        if len(self.words) + 1 != len(self.model.logit.bias):
            raise CheckpointError(
                f"{file} has {len(self.words)} words, but {weights} was trained with {len(self.model.logit.bias) - 1}"
            )
        self.max_new_tokens = max_new_tokens or 20
        self.num_beams = num_beams or 5
        self._never = [number for number, word in self.words.items() if word == "UNK"]

    @torch.no_grad()
    def __call__(self, images: Sequence[NDArray[np.floating[Any]]]) -> list[str]:
        """One caption for each image, of which the regions (r, f) are given."""
        if not len(images):
            return []
        device = self.model.logit.bias.device
        regions = pad_sequence([torch.from_numpy(np.array(some, np.float32)) for some in images], batch_first=True)
        mask = pad_sequence([torch.ones(len(some), dtype=torch.bool) for some in images], batch_first=True)
        each_beam = torch.arange(len(images), device=device).repeat_interleave(self.num_beams)  # (b * k,) its image
        regions, mask = regions.to(device), mask.to(device)
        mean, regions, mask = (part[each_beam] for part in (*self.model.encode(regions, mask), mask))
        state = tuple(torch.zeros_like(mean) for _ in range(4))

        def step(words: Tensor, state: State) -> tuple[Tensor, State]:
            logits, state, _ = self.model.step(words[:, -1], mean, regions, mask, state)
            logits[:, self._never] = -torch.inf
            return logits, state

        found, _ = beam_search(
            step, state, len(images), START, END, self.max_new_tokens, self.num_beams, ended_stay=False, device=device
        )
        return [" ".join(self.words[number] for number in words) for words in found]
