"""VirTex as a captioner: Desai and Johnson (2020), "VirTex: Learning Visual Representations from Textual Annotations".

A ResNet's last map (7 x 7 x 2048) is projected to the width of a Transformer decoder, whose words attend to it. It is
trained on captions in both directions; the one that reads forwards makes captions. Names and shapes of the weights are
those of the public files (github.com/kdexd/virtex, `bicaptioning_R_50_L1_H2048.pth` and its kin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mner.data.transforms import ImageTransform
from mner.encoders.weights import load_by_name, read_weights
from mner.errors import CheckpointError, MissingDependencyError
from mner.nn.beam_search import State, beam_search
from mner.preprocessing.vocabulary_file import vocabulary_file
from mner.runtime import pick_device

PADDING, START, END = 0, 1, 2
"""Word pieces of the public vocabulary: `<unk>`, `[SOS]` and `[EOS]`; `[MASK]`, 3, plays no part here."""
HEAD_WIDTH = 64


class VirTex(nn.Module):
    """The network, of any depth and width of the paper's.

    Args:
        blocks: Residual blocks of the ResNet's four stages.
        width: H, of words and hidden states.
        layers: Of the decoder.
        words: v, pieces of the vocabulary.
        positions: Most pieces of a caption, `[SOS]` among them.
        cnn_width: Of the ResNet's first stage: 64, or 128 for the twice as wide one.

    Shapes:
        image (b, 3, 224, 224) -> memory (b, 49, H) -> with pieces (b, t), logits (b, t, v)
    """

    def __init__(
        self, blocks: Sequence[int], width: int, layers: int, words: int, positions: int = 30, cnn_width: int = 64
    ) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet

        super().__init__()
        cnn = ResNet(Bottleneck, list(blocks), width_per_group=cnn_width)
        cnn.fc = nn.Identity()
        layer = nn.TransformerDecoderLayer(width, width // HEAD_WIDTH, 4 * width, activation="gelu", batch_first=True)
        output, table = nn.Linear(width, words), nn.Embedding(words, width, padding_idx=PADDING)
        embedding = {
            "words": table,
            "positions": nn.Embedding(positions, width),
            "layer_norm": nn.LayerNorm(width, eps=1e-8),
        }
        self.visual = nn.ModuleDict({"cnn": cnn})
        self.textual = nn.ModuleDict(
            {
                "visual_projection": nn.Linear(2048, width),
                "embedding": nn.ModuleDict(embedding),
                "transformer": nn.TransformerDecoder(layer, layers),
                "output": output,
            }
        )
        output.weight = table.weight
        self.words = words
        self.positions = positions
        self.requires_grad_(False).eval()

    def encode(self, image: Tensor) -> Tensor:
        """What captions attend to, (b, 49, H), of images (b, 3, 224, 224)."""
        cnn: Any = self.visual["cnn"]
        found = cnn.maxpool(cnn.relu(cnn.bn1(cnn.conv1(image))))
        found = cnn.layer4(cnn.layer3(cnn.layer2(cnn.layer1(found))))  # (b, 2048, 7, 7)
        project: Any = self.textual["visual_projection"]
        memory: Tensor = project(found.flatten(2).transpose(1, 2))
        return memory

    def decode(self, pieces: Tensor, memory: Tensor) -> Tensor:
        """Logits (b, t, v) of the piece after each of `pieces` (b, t), which begin with `[SOS]`."""
        textual: Any = self.textual
        embedding, t = textual["embedding"], pieces.shape[1]
        states = embedding["layer_norm"](embedding["words"](pieces) + embedding["positions"].weight[:t])
        states = states * (pieces != PADDING)[..., None]
        future = nn.Transformer.generate_square_subsequent_mask(t, device=states.device, dtype=states.dtype)
        states = textual["transformer"](states, memory, tgt_mask=future, tgt_is_causal=True)
        logits: Tensor = textual["output"](states)
        return logits


def load_virtex(path: str | Path) -> VirTex:
    """The network of a public file, whose sizes are read from it. What reads backwards is left out.

    Raises:
        CheckpointError: If the file holds something else.
    """
    state = read_weights(path)
    table = "textual.embedding.words.weight"
    lacking = [name for name in (table, _POSITIONS, _FIRST) if name not in state]
    if lacking:
        raise CheckpointError(
            f"{path} holds no captioner of VirTex: it lacks {lacking[0]} (bicaptioning_R_50_L1_H2048.pth and its kin "
            "have it; files of classification have no decoder)"
        )
    words, width = state[table].shape
    if width % HEAD_WIDTH:
        raise CheckpointError(f"{path} has hidden states of {width} numbers; expected a multiple of {HEAD_WIDTH}")
    blocks = [_count(state, f"visual.cnn.layer{stage}.", ".conv1.weight") for stage in (1, 2, 3, 4)]
    layers = _count(state, "textual.transformer.layers.", ".linear1.weight")
    model = VirTex(blocks, width, layers, words, len(state[_POSITIONS]), len(state[_FIRST]))
    load_by_name(model, state, path, spare=["backward_textual"])
    if not torch.equal(state[table], state["textual.output.weight"]):
        raise CheckpointError(f"{path}: textual.output.weight differs from {table}; in VirTex the two are one")
    return model


class VirTexCaptioner:
    """RGB images -> one caption each.

    As published, the search has 5 beams, each of which goes on with 2 words at most, and no word follows itself. The
    released code searches on from the words without `[SOS]`, though training had it; here it stays.

    Args:
        weights: Public file of weights.
        vocabulary: SentencePiece model that belongs to it; None for the one beside the weights.
        max_new_tokens: Longest caption, in word pieces; None for as many as there are positions (30).
        num_beams: Beams; None for 5.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: If weights or vocabulary are missing, or do not belong together.
        MissingDependencyError: Without sentencepiece.
    """

    def __init__(
        self,
        weights: str | Path,
        vocabulary: str | Path | None = None,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        device: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.model = load_virtex(weights).to(self.device)
        file = vocabulary_file(weights, vocabulary, ("*.model",), "the SentencePiece model coco_10k.model")
        self.pieces = _sentence_pieces(file)
        if len(self.pieces) != self.model.words:
            raise CheckpointError(
                f"{file} has {len(self.pieces)} word pieces, but {weights} was trained with {self.model.words}"
            )
        self.max_new_tokens = max_new_tokens or self.model.positions
        if self.max_new_tokens > self.model.positions:
            raise ValueError(
                f"Expected `max_new_tokens` of {self.model.positions} at most, the positions of VirTex, but got "
                f"{self.max_new_tokens}"
            )
        self.num_beams = num_beams or 5
        self.transform = ImageTransform(224, interpolation="bilinear", crop=224 / 256)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption for each image."""
        if not images:
            return []
        memory = self.model.encode(torch.stack([self.transform(image) for image in images]).to(self.device))
        memory = memory.repeat_interleave(self.num_beams, 0)  # (b * k, 49, H)

        def step(pieces: Tensor, state: State) -> tuple[Tensor, State]:
            return self.model.decode(pieces, memory)[:, -1], state

        found, _ = beam_search(
            step, (), len(images), START, END, self.max_new_tokens, self.num_beams, candidates=2, repeats=False,
            device=self.device,
        )  # fmt: skip
        return [" ".join(self.pieces.decode(pieces).split()) for pieces in found]


_POSITIONS = "textual.embedding.positions.weight"
_FIRST = "visual.cnn.layer1.0.conv1.weight"


def _count(state: Mapping[str, Tensor], start: str, end: str) -> int:
    return sum(name.startswith(start) and name.endswith(end) for name in state)


def _sentence_pieces(file: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingDependencyError(
            "Captions by VirTex need sentencepiece, which reads its vocabulary: pip install mner[captions]"
        ) from error
    try:
        return SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} is no model of SentencePiece: {error}") from error
