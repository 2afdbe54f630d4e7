"""Words and objects as nodes of one graph that send each other gated messages: UMGF of Zhang D. et al. (2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.fusion.base import FusionModule
from mner.fusion.guiding_objects import HeadAttention


class GatedMessages(nn.Module):
    """What each node gets from all nodes of the other kind, feature by feature.

    ::

        g_ij = sigmoid(A receiver_i + B sender_j + b)      (d)
        m_i  = Σ over real j of g_ij ∘ sender_j            (d)

    Gates are in 0..1 each for itself; they do not sum to 1. Without any real sender m = 0. Memory is b · i · j · d.

    Args:
        width: d.

    >>> messages = GatedMessages(4)(torch.randn(1, 5, 4), torch.randn(1, 3, 4), torch.tensor([[True, False, False]]))
    >>> messages.shape
    torch.Size([1, 5, 4])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(width, width)  # its bias is b
        self.sender = nn.Linear(width, width, bias=False)

    def forward(self, receivers: Tensor, senders: Tensor, sender_mask: Tensor) -> Tensor:
        """Receivers (b, i, d), senders (b, j, d) and their mask (b, j) -> messages (b, i, d)."""
        gates = (self.receiver(receivers)[:, :, None] + self.sender(senders)[:, None]).sigmoid()  # (b, i, j, d)
        sent = senders.masked_fill(~sender_mask[..., None], 0.0)[:, None]
        messages: Tensor = (gates * sent).sum(2)
        return messages


class Nodes(nn.Module):
    """One layer of the nodes of one kind: they attend to each other, receive messages, and pass a feed-forward net.

    Args:
        width: d.
        hidden: Of the feed-forward net.
        heads: Of the attention.
        dropout: Before each residual, and on the attention.
        receives: False for nodes that nobody reads afterwards: they only attend.
    """

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, receives: bool = True) -> None:
        super().__init__()
        self.attention = HeadAttention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.receives = receives
        if receives:
            self.messages = GatedMessages(width)
            self.message_norm = nn.LayerNorm(width)
            self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
            self.feed_forward_norm = nn.LayerNorm(width)

    def attend(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Nodes (b, n, d) and their mask (b, n) -> (b, n, d)."""
        attended: Tensor = self.attention_norm(nodes + self.dropout(self.attention(nodes, nodes, mask)[0]))
        return attended

    def receive(self, nodes: Tensor, others: Tensor, other_mask: Tensor) -> Tensor:
        """Nodes (b, n, d), those of the other kind (b, m, d) and their mask (b, m) -> (b, n, d)."""
        if not self.receives:
            return nodes
        nodes = self.message_norm(nodes + self.dropout(self.messages(nodes, others, other_mask)))
        updated: Tensor = self.feed_forward_norm(nodes + self.dropout(self.feed_forward(nodes)))
        return updated


class MultimodalGraphFusion(nn.Module):
    """Layers of a graph of words and objects, in which every word of a post is linked with every object of it.

    ::

        x_t = W h_t + b                                       words                      (d')
        o_j = ReLU(W_2 drop(ReLU(W_1 V_j)))                   objects                    (d')

        each layer:
            x = LN(x + drop(Attention(x, x)));                o = LN(o + drop(Attention(o, o)))
            m_t = Σ_j sigmoid(A x_t + B o_j + b) ∘ o_j;       n_j = Σ_t sigmoid(A' o_j + B' x_t + b') ∘ x_t
            x = LN(x + drop(m));                              o = LN(o + drop(n))
            x = LN(x + drop(FFN(x)));                         o = LN(o + drop(FFN'(o)))

        output_t = [h_t ; x_t]                                                           (d + d')

    Paper: Zhang D. et al., "Multi-modal graph fusion for named entity recognition with targeted visual guidance", AAAI
    2021 (UMGF), after the graph of Yin et al. (2020) for translation.

    Chosen here, where the released code differs: the attention of objects has value and output projections as that of
    words has; padded words and absent objects send nothing and are not attended to (there all objects are present, and
    a post without them stops the program); nodes are words, not word pieces; objects of the last layer, which nobody
    reads, receive nothing, so that every parameter has a gradient. The links of phrases to the objects that they name,
    of which the paper speaks, are all links in the released code and here.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an object's vector.
        graph_width: d'.
        hidden: Width of the feed-forward nets.
        heads: Heads of each attention.
        layers: Layers of the graph.
        dropout: As above.

    Raises:
        ValueError: If `layers` is below 1, or `heads` does not divide `graph_width`.

    >>> fusion = MultimodalGraphFusion(width=8, region_width=16, graph_width=8, layers=2)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> objects, object_mask = torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    >>> fusion(words, word_mask, objects, object_mask).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        width: int,
        region_width: int,
        graph_width: int = 512,
        hidden: int = 256,
        heads: int = 8,
        layers: int = 6,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"Expected `layers` of at least 1, but got {layers}")
        self.words = nn.Linear(width, graph_width)
        self.objects = nn.Sequential(
            nn.Linear(region_width, graph_width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(graph_width, graph_width), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        sizes = (graph_width, hidden, heads, dropout)
        self.word_layers = nn.ModuleList(Nodes(*sizes) for _ in range(layers))
        self.object_layers = nn.ModuleList(Nodes(*sizes, receives=layer < layers - 1) for layer in range(layers))

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d), raw regions (b, r, f), masks (b, w) and (b, r), true = real -> (b, w, d + d')."""
        x, o = self.words(words), self.objects(regions)
        of_words: Any
        of_objects: Any
        for of_words, of_objects in zip(self.word_layers, self.object_layers, strict=True):
            x, o = of_words.attend(x, word_mask), of_objects.attend(o, region_mask)
            x, o = of_words.receive(x, o, region_mask), of_objects.receive(o, x, word_mask)
        return torch.cat([words, x], -1)


class MultimodalGraph(FusionModule):
    """UMGF: a graph of words and objects, beside the words as the text encoder gives them.

    See `MultimodalGraphFusion`. Post without image: no object, so that its words get no message.

    Paper: Zhang D. et al. (2021). Its objects are four crops found by visual grounding, each a vector of a ResNet-152
    that is trained along; here they are whatever regions there are, such as those of `mner features --crops`.

    Args:
        args: As for `FusionModule`.
        graph_width: Width d' of the nodes; None for d. Released: 512.
        graph_hidden: Width of the feed-forward nets.
        graph_heads: Heads of each attention.
        graph_layers: Layers of the graph.
        graph_dropout: Within the graph. `dropout` is before the emissions, where the released code has none.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If `graph_layers` is below 1, or `graph_heads` does not divide the width.
    """

    replaces_missing_images = False

    def __init__(
        self,
        *args: Any,
        graph_width: int | None = None,
        graph_hidden: int = 256,
        graph_heads: int = 8,
        graph_layers: int = 6,
        graph_dropout: float = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `fusion` has its own
        self.fusion = MultimodalGraphFusion(
            self.width, self.region_width, graph_width or self.width, graph_hidden, graph_heads, graph_layers,
            graph_dropout,
        )  # fmt: skip

    @property
    def pretrained(self) -> list[nn.Module]:
        """The encoders, and the graph; its fresh layers, too, bear no higher rate than an encoder."""
        return [*super().pretrained, self.fusion]

    @property
    def fused_width(self) -> int:
        """Width d + d' of `[h ; x]`."""
        return self.width + (self.hparams["graph_width"] or self.width)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, d + d')."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused
