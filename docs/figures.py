"""Draws the data flow of each strategy, as SVG in docs/_static/figures: `python docs/figures.py`.

A box says what it computes and the shape that comes out, in the letters of `mner.fusion.base`. Where one module
computes it, the box names that module, and tests/docs/test_figures.py compares the shape with what the module returns.
Boxes have a ground of their own and lines are mid-grey, so that a figure is readable on light and on dark pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "_static" / "figures"
WIDTH, HEIGHT, ROW, MARGIN = 720, 46, 78, 14  # pixels: the page, a box, from one row to the next, the rim
COLOURS = {"text": "#cfe2f7", "image": "#d3edcb", "both": "#fde0b5", "out": "#e6dcf4"}
EDGES = {"text": "#5b8bbf", "image": "#6aa35a", "both": "#cf9438", "out": "#8f78b8"}
INK, LINE = "#1b1f24", "#858c96"

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """What is computed: centre `x`, row `y`, a line of text, the shape that comes out, and the module that does it."""

    x: float
    y: float
    text: str
    shape: str
    kind: str
    width: float = 190
    module: str = ""

    @property
    def centre(self) -> Point:
        return self.x, MARGIN + HEIGHT / 2 + self.y * ROW

    @property
    def corners(self) -> tuple[float, float, float, float]:
        x, y = self.centre
        return x - self.width / 2, y - HEIGHT / 2, x + self.width / 2, y + HEIGHT / 2

    def port(self, side: str, shift: float) -> Point:
        left, top, right, bottom = self.corners
        x, y = self.centre
        return {"t": (x + shift, top), "b": (x + shift, bottom), "l": (left, y + shift), "r": (right, y + shift)}[side]


@dataclass(frozen=True)
class Figure:
    """Boxes by name, and arrows as `"from.side to.side"`, a side with an optional shift in pixels: `"words.b-40"`.

    A third part, `"@100"`, says at which x (sideways) or y (downwards, in rows) a bent arrow turns.
    """

    title: str
    boxes: dict[str, Box]
    arrows: tuple[str, ...]

    @property
    def height(self) -> float:
        return max(box.corners[3] for box in self.boxes.values()) + MARGIN

    def paths(self) -> list[tuple[str, list[Point]]]:
        return [(arrow, self._path(arrow)) for arrow in self.arrows]

    def _path(self, arrow: str) -> list[Point]:
        start, end, *turn = arrow.split()
        (side, first), (other, last) = self._end(start), self._end(end)
        if turn:
            bend = float(turn[0][1:])
            if side in "lr" and other in "lr":
                middle: list[Point] = [(bend, first[1]), (bend, last[1])]
            else:
                level = MARGIN + HEIGHT / 2 + bend * ROW
                middle = [(first[0], level), (last[0], level)]
        elif side in "tb":
            middle = [(first[0], last[1])] if other in "lr" else [(first[0], last[1] - 16), (last[0], last[1] - 16)]
        else:
            middle = [(last[0], first[1])]
        points = [first, *middle, last]
        return [point for number, point in enumerate(points) if number == 0 or point != points[number - 1]]

    def _end(self, name: str) -> tuple[str, Point]:
        box, _, place = name.partition(".")
        return place[0], self.boxes[box].port(place[0], float(place[1:] or 0))

    def svg(self) -> str:
        marker = '<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" width="{WIDTH}" '
            f'height="{self.height:g}" role="img" font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif" '
            f'font-size="13" text-anchor="middle">',
            f"<title>{escape(self.title)}</title>",
            f'<defs>{marker}<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
            f'<g fill="none" stroke="{LINE}" stroke-width="1.6" stroke-linejoin="round">',
        ]
        for arrow, points in self.paths():
            drawn = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
            lines.append(f'<path d="{drawn}" marker-end="url(#a)"><title>{escape(arrow)}</title></path>')
        lines.append("</g>")
        for box in self.boxes.values():
            left, top, _, _ = box.corners
            lines += [
                f'<rect x="{left:g}" y="{top:g}" width="{box.width:g}" height="{HEIGHT}" rx="6" '
                f'fill="{COLOURS[box.kind]}" stroke="{EDGES[box.kind]}"/>',
                f'<text x="{box.x:g}" y="{top + 19:g}" fill="{INK}">{escape(box.text)}</text>',
                f'<text x="{box.x:g}" y="{top + 37:g}" fill="{INK}" font-size="12">{escape(box.shape)}</text>',
            ]
        return "\n".join([*lines, "</svg>"]) + "\n"


def tail(y: float, x: float = 360, width: float = 250) -> dict[str, Box]:
    """What all strategies end with."""
    return {
        "head": Box(x, y, "dropout, Linear: emissions", "(b, w, l)", "out", width, "head"),
        "crf": Box(x, y + 1, "CRF: tags by Viterbi, or the loss", "a list of labels for each post", "out", width),
    }


TAIL = ("head.b crf.t",)


def words(x: float = 170, y: float = 0, width: float = 210) -> dict[str, Box]:
    """Text encoder and first pieces, as most strategies start."""
    return {
        "encoder": Box(x, y, "post + context: text encoder", "(b, t, d)", "text", width, "text_encoder"),
        "words": Box(x, y + 1, "first piece of each word: h", "(b, w, d)", "text", width, "word_projection"),
    }


def regions(x: float = 550, y: float = 1, width: float = 210) -> dict[str, Box]:
    """Regions as they come; all strategies but TAM project them themselves."""
    return {
        "image": Box(x, y - 1, "image: encoder, or stored features", "(b, r, f)", "image", width + 50),
        "regions": Box(x, y, "regions V, or “no image”", "(b, r, f)", "image", width, "region_projection"),
    }


FIGURES = {
    "text_only": Figure(
        "TextOnly: text encoder, Linear and CRF",
        {
            "post": Box(220, 0, "post: [CLS] … [SEP]", "segment 0 of (b, t)", "text", 200),
            "context": Box(500, 0, "captions, if any: … [SEP]", "segment 1 of (b, t)", "image", 200),
            "encoder": Box(360, 1, "text encoder reads both", "(b, t, d)", "text", 250, "text_encoder"),
            "words": Box(360, 2, "first piece of each word of the post", "(b, w, d)", "text", 270, "word_projection"),
            **tail(3),
        },
        ("post.b encoder.t-40", "context.b encoder.t+40", "encoder.b words.t", "words.b head.t", *TAIL),
    ),
    "concatenation": Figure(
        "Concatenation: word, characters and image mean side by side",
        {
            "encoder": Box(125, 0, "post: text encoder", "(b, t, d)", "text", 210, "text_encoder"),
            "words": Box(125, 1, "first piece of each word: x", "(b, w, d)", "text", 210, "word_projection"),
            "word": Box(125, 2, "Linear", "(b, w, p)", "text", 120, "fusion.word_projection"),
            "letters": Box(350, 0, "characters of each word", "(b, w, c)", "text", 190),
            "characters": Box(350, 1, "character encoder: c", "(b, w, 100)", "text", 190, "characters"),
            "character": Box(350, 2, "Linear", "(b, w, p)", "text", 120, "fusion.character_projection"),
            "regions": Box(585, 0, "regions V, or “no image”", "(b, r, f)", "image", 220, "region_projection"),
            "mean": Box(585, 1, "mean of the real regions: v", "(b, f)", "image", 220),
            "picture": Box(585, 2, "Linear, once a post", "(b, p)", "image", 160, "fusion.region_projection"),
            "joined": Box(350, 3, "side by side; v for every word", "(b, w, 3p)", "both", 250, "fusion"),
            **tail(4, 350),
        },
        (
            "encoder.b words.t", "words.b word.t", "word.b joined.l",
            "letters.b characters.t", "characters.b character.t", "character.b joined.t",
            "regions.b mean.t", "mean.b picture.t", "picture.b joined.r",
            "joined.b head.t", *TAIL,
        ),
    ),
    "visual_attention": Figure(
        "VisualAttention: one look at the image for each post, gated into each word",
        {
            **words(),
            **regions(),
            "query": Box(170, 2, "LSTM, last real word: Q", "(b, d)", "text", 210),
            "attention": Box(550, 2, "Q attends to V; weights (b, 1, r)", "(b, 1, f)", "both", 240, "fusion.attention"),
            "context": Box(550, 3, "Linear, same for every word: c", "(b, 1, d)", "both", 240,
                           "fusion.context_projection"),
            "gates": Box(360, 4, "gates β_v, β_w and m_t from h_t and c", "each (b, w, d)", "both", 290),
            "fused": Box(360, 5, "β_w ∘ h_t + β_v ∘ m_t", "(b, w, d)", "both", 250, "fusion"),
            **tail(6),
        },
        (
            "encoder.b words.t", "image.b regions.t", "words.b query.t", "regions.b attention.t",
            "query.r attention.l", "attention.b context.t", "context.b gates.r",
            "words.l gates.l-8 @36", "words.l fused.l @36", "gates.b fused.t", "fused.b head.t", *TAIL,
        ),
    ),
    "co_attention": Figure(
        "CoAttention: words attend to regions, what they see attends to words, two gates",
        {
            **words(190),
            **regions(),
            "seen": Box(550, 2, "Linear, tanh: v", "(b, r, d)", "image", 210),
            "visual": Box(550, 3, "1. h attends to v; weights (b, w, r)", "v̂ (b, w, d)", "both", 256,
                          "fusion.visual_attention"),
            "textual": Box(550, 4, "2. v̂ attends to h; weights (b, w, w)", "ĥ (b, w, d)", "both", 256,
                           "fusion.textual_attention"),
            "gated": Box(360, 5, "3. gate g between v̂ and ĥ: m", "(b, w, d)", "both", 240),
            "filter": Box(360, 6, "4. filter s (b, w, 1) from h and m: u", "(b, w, d)", "both", 256),
            "joined": Box(360, 7, "[h ; u]", "(b, w, 2d)", "both", 250, "fusion"),
            **tail(8),
        },
        (
            "encoder.b words.t", "image.b regions.t", "regions.b seen.t", "seen.b visual.t",
            "words.b+40 visual.l", "words.b textual.l", "visual.b textual.t",
            "visual.r gated.r+8 @700", "textual.b+40 gated.r-8", "gated.b filter.t",
            "words.l filter.l @40", "words.l joined.l @40", "filter.b joined.t", "joined.b head.t", *TAIL,
        ),
    ),
    "transformer_attention": Figure(
        "TransformerAttention: the text encoder reads regions as more word pieces",
        {
            "post": Box(185, 0, "word pieces of post and context", "(b, t)", "text", 240),
            "text": Box(185, 1, "Word + Type + Position", "(b, t, d)", "text", 240),
            "regions": Box(535, 0, "regions V, or “no image”", "(b, r, f)", "image", 240),
            "visual": Box(535, 1, "W V + b + Type_v + Position_v", "(b, r, d)", "image", 240),
            "joined": Box(360, 2, "[text ; visual]: LayerNorm, dropout", "(b, t + r, d)", "both", 270,
                          "text_encoder.model.embeddings"),
            "layers": Box(360, 3, "all layers; mask [text mask ; region mask]", "(b, t + r, d)", "both", 300,
                          "text_encoder.model.encoder"),
            "words": Box(360, 4, "first piece of each word", "(b, w, d)", "both", 250, "stream"),
            **tail(5),
        },
        (
            "post.b text.t", "regions.b visual.t", "text.b joined.t-60", "visual.b joined.t+60", "joined.b layers.t",
            "layers.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "unified_multimodal_transformer": Figure(
        "UnifiedMultimodalTransformer: cross-modal layers, and span detection from the text alone",
        {
            "words": Box(220, 0, "words from the text encoder, dropout", "(b, w, d)", "text", 262, "dropout"),
            "regions": Box(555, 0, "regions V, or “no image”", "(b, r, f)", "image", 220, "region_projection"),
            "span": Box(115, 1, "Layer(words, words)", "S_span (b, w, d)", "text", 170, "fusion.span_layer"),
            "self": Box(325, 1, "Layer(words, words)", "S (b, w, d)", "text", 170, "fusion.word_layer"),
            "first": Box(485, 1, "W_1 V + b_1", "(b, r, d)", "image", 110, "fusion.image_projection"),
            "second": Box(625, 1, "W_2 V + b_2", "(b, r, d)", "image", 110, "fusion.region_projection"),
            "scores": Box(115, 2, "Linear: U, for O B I", "(b, w, 3)", "text", 170, "span_head"),
            "pictures": Box(605, 2, "P = Layer(W_2 V + b_2, S)", "(b, r, d)", "both", 200, "fusion.word_aware"),
            "aware": Box(285, 3, "A = Layer(S, W_1 V + b_1)", "(b, w, d)", "both", 196, "fusion.image_aware"),
            "final": Box(605, 4, "R = Layer(S, P)", "(b, w, d)", "both", 200, "fusion.final"),
            "gate": Box(445, 5, "gate g from R and A; [R ; g ∘ A]", "(b, w, 2d)", "both", 240, "fusion"),
            "head": Box(445, 6, "dropout, Linear", "(b, w, l)", "both", 240, "head"),
            "spread": Box(115, 6, "U M: each type its share", "(b, w, l)", "text", 190, "conversion"),
            "mixed": Box(445, 7, "emissions: (1 - s) Linear + s U M", "(b, w, l)", "out", 260),
            "spans": Box(115, 8, "CRF' on U: loss, times λ", "a number", "out", 190),
            "crf": Box(445, 8, "CRF: tags by Viterbi, or the loss", "a list of labels for each post", "out", 260),
        },
        (
            "words.b span.t", "words.b self.t", "regions.b first.t", "regions.b second.t",
            "span.b scores.t", "scores.b spread.t", "scores.l spans.l @10", "spread.b mixed.l",
            "self.b-40 aware.t", "first.b aware.r", "self.b+78 pictures.l", "second.b pictures.t-20",
            "self.b+78 final.l", "pictures.b final.t",
            "final.b gate.r", "aware.b gate.l", "gate.b head.t", "head.b mixed.t", "mixed.b crf.t",
        ),
    ),
    "relation_propagation": Figure(
        "RelationPropagation: read once to weigh the image, then again for the tags",
        {
            "post": Box(170, 0, "word pieces of post and context", "(b, t)", "text", 230),
            "regions": Box(550, 0, "regions V; none without image", "(b, r, f)", "image", 220),
            "visual": Box(550, 1, "W V + b", "(b, r, d)", "image", 140, "stream.projection"),
            "first": Box(360, 2, "first pass: all layers read [text ; visual]", "(b, t + r, d)", "both", 290,
                         "text_encoder.model.encoder"),
            "relation": Box(360, 3, "[CLS]: Linear, sigmoid: relation r", "(b, 1)", "both", 250, "stream.relation"),
            "scaled": Box(550, 4, "r (W V + b)", "(b, r, d)", "both", 140),
            "second": Box(360, 5, "second pass, same weights", "(b, t + r, d)", "both", 250),
            "words": Box(360, 6, "first piece of each word", "(b, w, d)", "both", 250, "word_projection"),
            **tail(7),
        },
        (
            "post.b first.t-60", "regions.b visual.t", "visual.b first.t+60", "first.b relation.t",
            "relation.b scaled.l", "visual.r scaled.r @690", "post.l second.l @40", "scaled.b second.r",
            "second.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "object_aware": Figure(
        "ObjectAware: bilinear attention to objects, and a classifier that must not tell them from words",
        {
            **words(170),
            **regions(),
            "objects": Box(550, 2, "perceptron: o", "(b, r, d)", "image", 210, "fusion.objects"),
            "attention": Box(420, 3, "t and o: bilinear attention", "(b, w, d)", "both", 230, "fusion.attention"),
            "gate": Box(420, 4, "gate g; LayerNorm(t + g ∘ b)", "(b, w, d)", "both", 230, "fusion"),
            "reverse": Box(140, 3, "gradient reversal", "(b, w or r, d)", "both", 190),
            "modality": Box(140, 4, "word or object?", "(b, w or r)", "both", 190),
            "adversarial": Box(140, 5, "loss, times λ", "a number", "out", 190),
            **tail(5, 420),
        },
        (
            "encoder.b words.t", "image.b regions.t", "regions.b objects.t", "words.b-30 reverse.t",
            "words.r attention.t-40", "objects.b attention.t+40 @2.55", "objects.l reverse.t+40", "attention.b gate.t",
            "words.b+95 gate.l", "reverse.b modality.t", "modality.b adversarial.t", "gate.b head.t", *TAIL,
        ),
    ),
    "guiding_objects": Figure(
        "GuidingObjects: words attend to the names of the objects that were seen",
        {
            **words(170),
            "names": Box(550, 0, "names of objects, up to 4", "b lists", "image", 220),
            "objects": Box(550, 1, "characters, mean of words, Linear", "(b, o, d)", "image", 250, "names"),
            "text": Box(170, 2, "self-attention layer: x", "(b, w, d)", "text", 210, "fusion.text_layers.0"),
            "self": Box(550, 2, "self-attention, LayerNorm: y", "(b, o, d)", "image", 230, "fusion.object_norm"),
            "guided": Box(360, 3, "x attends to y, LayerNorm", "(b, w, d)", "both", 220, "fusion.guided_norm"),
            "inner": Box(360, 4, "ReLU layer of 4d, LayerNorm: z", "(b, w, d)", "both", 240, "fusion.output_norm"),
            "sum": Box(360, 5, "LayerNorm(h + z)", "(b, w, d)", "both", 220, "fusion"),
            **tail(6),
        },
        (
            "encoder.b words.t", "names.b objects.t", "words.b text.t", "objects.b self.t", "text.b guided.l",
            "self.b guided.r", "guided.b inner.t", "inner.b sum.t", "words.l sum.l @40", "sum.b head.t", *TAIL,
        ),
    ),
    "relation_inference": Figure(
        "RelationInference: what words see, times how far the image belongs to its post",
        {
            **words(150),
            **regions(570),
            "relation": Box(360, 2, "means of h and V: relation s", "(b, 1)", "both", 230, "fusion.relation"),
            "attention": Box(570, 3, "h attends to V; weights (b, w, r)", "(b, w, f)", "both", 240, "fusion.attention"),
            "context": Box(570, 4, "Linear: v", "(b, w, d)", "both", 160, "fusion.context_projection"),
            "scaled": Box(360, 5, "[h ; sigmoid(s) v]: BiLSTM", "(b, w, 400)", "both", 230, "fusion.reader"),
            **tail(6),
        },
        (
            "encoder.b words.t", "image.b regions.t", "words.b+60 relation.l", "regions.b-60 relation.r",
            "regions.b attention.t", "words.b attention.l", "attention.b context.t", "context.b scaled.r",
            "relation.b scaled.t", "words.b-40 scaled.l", "scaled.b head.t", *TAIL,
        ),
    ),
    "modality_attention": Figure(
        "ModalityAttention: each word weighs itself, its characters and the image",
        {
            "words": Box(125, 0, "first piece of each word: x", "(b, w, d)", "text", 210, "word_projection"),
            "word": Box(125, 1, "Linear", "(b, w, p)", "text", 120, "fusion.word_projection"),
            "characters": Box(360, 0, "characters: BiLSTM", "(b, w, 100)", "text", 190, "characters"),
            "character": Box(360, 1, "Linear", "(b, w, p)", "text", 120, "fusion.character_projection"),
            "regions": Box(590, 0, "regions V, or “no image”: mean", "(b, f)", "image", 230),
            "picture": Box(590, 1, "Linear, once a post", "(b, p)", "image", 160, "fusion.image_projection"),
            "scores": Box(360, 2, "Linear, sigmoid, softmax: weights", "(b, w, 3)", "both", 250, "fusion.weigh"),
            "sum": Box(360, 3, "weighted sum of the three", "(b, w, p)", "both", 250, "fusion"),
            "reader": Box(360, 4, "BiLSTM", "(b, w, 200)", "both", 250, "reader"),
            **tail(5),
        },
        (
            "words.b word.t", "characters.b character.t", "regions.b picture.t", "word.b+20 scores.l",
            "character.b scores.t", "picture.b-20 scores.r", "word.b-20 sum.l", "picture.b+20 sum.r", "scores.b sum.t",
            "sum.b reader.t", "reader.b head.t", *TAIL,
        ),
    ),
    "character_word_image": Figure(
        "CharacterWordImage: word and characters attend to regions; a BiLSTM reads all three",
        {
            "words": Box(125, 0, "first piece of each word: w", "(b, w, d)", "text", 210, "word_projection"),
            "characters": Box(360, 0, "characters: c", "(b, w, 100)", "text", 190, "characters"),
            "regions": Box(590, 0, "regions V, or “no image”", "(b, r, f)", "image", 210, "region_projection"),
            "query": Box(240, 1, "q = [w ; c]", "(b, w, d + 100)", "text", 190),
            "attention": Box(500, 2, "q attends to V, four heads: v", "(b, w, d)", "both", 230, "attention"),
            "reader": Box(360, 3, "[w ; c ; v]: BiLSTM", "(b, w, 400)", "both", 250, "reader"),
            **tail(4),
        },
        (
            "words.b query.t-40", "characters.b query.t+40", "query.r attention.t-40", "regions.b attention.t+60 @1",
            "query.b-40 reader.l", "attention.b reader.r", "reader.b head.t", *TAIL,
        ),
    ),
    "visually_aided_attention": Figure(
        "VisuallyAidedAttention: each pair of words sees the image, before one attends to the other",
        {
            **words(170),
            **regions(),
            "hidden": Box(170, 2, "Linear, ReLU: h", "(b, w, 64)", "text", 210, "fusion.words"),
            "seen": Box(550, 2, "Linear, ReLU: g", "(b, r, 64)", "image", 210, "fusion.regions"),
            "behind": Box(170, 3, "words after it, feature by feature", "(b, w, 64)", "text", 240, "fusion.behind"),
            "ahead": Box(530, 3, "words before it, by what a pair sees", "(b, w, 64)", "both", 270, "fusion.ahead"),
            "output": Box(360, 4, "side by side: Linear, ReLU", "(b, w, 600)", "both", 250, "fusion"),
            **tail(5),
        },
        (
            "encoder.b words.t", "image.b regions.t", "words.b hidden.t", "regions.b seen.t", "hidden.b behind.t",
            "hidden.r ahead.t-110", "seen.b ahead.t+20", "behind.b output.l", "ahead.b output.r", "output.b head.t",
            *TAIL,
        ),
    ),
    "cross_modal_encoder": Figure(
        "CrossModalEncoder: words and placed regions, each encoded alone, then in layers that cross",
        {
            "language": Box(170, 0, "post + context: language layers", "(b, t, d)", "text", 240, "text_encoder"),
            "image": Box(550, 0, "regions V and their boxes", "(b, r, f), (b, r, 4)", "image", 220),
            "placed": Box(550, 1, "mean of two Linear, LayerNorm", "(b, r, d)", "image", 230, "fresh.visn_fc"),
            "objects": Box(550, 2, "object layers", "(b, r, d)", "image", 210, "fresh.r_layers.4"),
            "cross": Box(360, 3, "cross layers, both ways: words' side", "(b, t, d)", "both", 270,
                         "fresh.x_layers.4"),
            "words": Box(360, 4, "first piece of each word", "(b, w, d)", "both", 250, "word_projection"),
            **tail(5),
        },
        (
            "language.b cross.l", "image.b placed.t", "placed.b objects.t", "objects.b cross.r",
            "cross.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "two_stream": Figure(
        "TwoStream: a visual stream beside the last layers of the text encoder, and co-attention between them",
        {
            "text": Box(170, 0, "post + context: first half of layers", "(b, t, d)", "text", 270,
                        "text_encoder.model.encoder.layer.0"),
            "image": Box(550, 0, "regions V and their boxes", "(b, r, f), (b, r, 4)", "image", 220),
            "placed": Box(550, 1, "mean, regions: Linear, LayerNorm", "(b, 1 + r, 1024)", "image", 240,
                          "stream.placed"),
            "both": Box(360, 2, "co-attention, both ways: text's side", "(b, t, d)", "both", 270,
                        "stream.co_attention.0"),
            "layer": Box(170, 3, "next layer of the text encoder", "(b, t, d)", "text", 250,
                         "text_encoder.model.encoder.layer.1"),
            "visual": Box(550, 3, "visual layer", "(b, 1 + r, 1024)", "image", 210),
            "again": Box(360, 4, "… and so on, five times in a BERT-base", "(b, t, d)", "both", 290),
            "words": Box(360, 5, "last layer: first piece of each word", "(b, w, d)", "both", 270, "word_projection"),
            **tail(6),
        },
        (
            "text.b both.l", "image.b placed.t", "placed.b both.r", "both.b-80 layer.t", "both.b+80 visual.t",
            "layer.b again.l", "visual.b again.r", "again.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "visual_prefix": Figure(
        "VisualPrefix: regions as keys and values that each layer of the text encoder attends to",
        {
            "post": Box(170, 0, "word pieces of post and context", "(b, t)", "text", 230),
            "regions": Box(550, 0, "regions V; none without image", "(b, r, f)", "image", 220),
            "slices": Box(550, 1, "Linear, tanh, Linear: four slices", "(b, r, 1, 8d)", "image", 230,
                          "prefix.projection"),
            "weights": Box(550, 2, "each layer: weights of the slices", "(b, r, 4)", "image", 230, "prefix.gates.0"),
            "prefix": Box(550, 3, "weighted sum: keys K', values V'", "each (b, r, d)", "image", 230),
            "layers": Box(300, 4, "each layer: attention to [K'; K], [V'; V]", "(b, t, d)", "both", 290,
                          "text_encoder"),
            "words": Box(300, 5, "first piece of each word", "(b, w, d)", "both", 250, "word_projection"),
            **tail(6, 300),
        },
        (
            "regions.b slices.t", "slices.b weights.t", "weights.b prefix.t", "slices.r prefix.r @690",
            "post.b layers.t-130", "prefix.b layers.r", "layers.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "correlation_fusion": Figure(
        "CorrelationFusion: vision layers attend to the text, text layers add what correlates with their tokens",
        {
            "post": Box(170, 0, "post + context: lower text layers", "(b, t, d)", "text", 250),
            "regions": Box(550, 0, "regions V; none without image", "(b, r, f)", "image", 220),
            "tokens": Box(550, 1, "Linear, or lower vision layers: v", "(b, r, d)", "image", 230, "region_projection"),
            "vision": Box(550, 2, "vision layer over [K_text; K]", "(b, r, d)", "both", 240, "vision_layers.0.mlp"),
            "text": Box(170, 3, "text layer, its attention: c", "(b, t, d)", "text", 250),
            "correlation": Box(550, 3, "φ = softmax(c v) v", "(b, t, d)", "both", 240),
            "inner": Box(360, 4, "W_2 GELU(W_1 c + W_f φ); so in k layers", "(b, t, d)", "both", 330),
            "words": Box(360, 5, "first piece of each word", "(b, w, d)", "both", 250, "word_projection"),
            **tail(6),
        },
        (
            "regions.b tokens.t", "tokens.b vision.t", "post.b+40 vision.l", "post.b-40 text.t-40",
            "vision.b correlation.t", "text.r correlation.l", "text.b inner.l", "correlation.b inner.r",
            "inner.b words.t", "words.b head.t", *TAIL,
        ),
    ),
    "multimodal_graph": Figure(
        "MultimodalGraph: words and objects attend each to their own kind, then send each other gated messages",
        {
            **words(170),
            "image": Box(550, 0, "image: encoder, or stored features", "(b, r, f)", "image", 260),
            "objects": Box(550, 1, "objects: two Linear, ReLU: o", "(b, r, d)", "image", 230, "fusion.objects"),
            "nodes": Box(170, 2, "Linear: x", "(b, w, d)", "text", 150, "fusion.words"),
            "words_self": Box(190, 3, "x attends to x; residual, LN", "(b, w, d)", "text", 220,
                              "fusion.word_layers.0.attention_norm"),
            "objects_self": Box(550, 3, "o attends to o; residual, LN", "(b, r, d)", "image", 220,
                                "fusion.object_layers.0.attention_norm"),
            "to_words": Box(190, 4, "gated messages m of all objects", "(b, w, d)", "both", 240,
                            "fusion.word_layers.0.messages"),
            "to_objects": Box(550, 4, "gated messages n of all words", "(b, r, d)", "both", 240,
                              "fusion.object_layers.0.messages"),
            "x": Box(190, 5, "LN(x + m), FFN; six layers", "(b, w, d)", "both", 220,
                     "fusion.word_layers.0.feed_forward_norm"),
            "o": Box(550, 5, "LN(o + n), FFN", "(b, r, d)", "both", 220,
                     "fusion.object_layers.0.feed_forward_norm"),
            "output": Box(190, 6, "[h ; x]", "(b, w, 2d)", "both", 220, "fusion"),
            **tail(7, 190),
        },
        (
            "encoder.b words.t", "words.b nodes.t", "image.b objects.t", "nodes.b words_self.t-20",
            "objects.b objects_self.t", "words_self.b to_words.t", "objects_self.b to_objects.t",
            "words_self.r to_objects.l-8 @370", "objects_self.l to_words.r+8 @390", "to_words.b x.t",
            "to_objects.b o.t", "x.b output.t", "words.l output.l @40", "output.b head.t", *TAIL,
        ),
    ),
    "cross_view_alignment": Figure(
        "CrossViewAlignment: one encoder reads the post with context and alone; the second learns from the first",
        {
            "full": Box(190, 0, "post + context", "(b, t)", "text", 190),
            "plain": Box(530, 0, "post, context masked", "(b, t)", "text", 190),
            "encoder": Box(190, 1, "text encoder", "(b, t, d)", "text", 210, "text_encoder"),
            "words": Box(190, 2, "first piece of each word", "(b, w, d)", "text", 210, "word_projection"),
            "head": Box(190, 3, "dropout, Linear: emissions", "(b, w, l)", "out", 230, "head"),
            "again": Box(530, 2, "encoder, same weights", "(b, w, d)", "text", 210),
            "second": Box(530, 3, "dropout, Linear: emissions", "(b, w, l)", "out", 230),
            "crf": Box(190, 5, "CRF: tags by Viterbi, or the loss", "a list of labels for each post", "out", 250),
            "agreement": Box(360, 4, "divergence, times λ", "a number", "out", 170),
            "plain_crf": Box(530, 5, "CRF: the loss, or the tags", "a number", "out", 230),
        },
        (
            "full.b encoder.t", "plain.b again.t", "encoder.b words.t", "words.b head.t", "again.b second.t",
            "head.b crf.t", "second.b plain_crf.t", "head.b+60 agreement.l", "second.b-60 agreement.r",
        ),
    ),
    "matching_alignment": Figure(
        "MatchingAlignment: what words see counts as far as the image matches; wrong images teach what matches",
        {
            **words(170),
            **regions(),
            "projected": Box(550, 2, "Linear: V'", "(b, r, d)", "image", 140, "fusion.projection"),
            "seen": Box(360, 3, "Layer(h, V'): A; weights (b, w, r)", "(b, w, d)", "both", 260, "fusion.layer"),
            "matcher": Box(360, 4, "means of h and A: matching p", "(b, 1)", "both", 240, "fusion.matcher"),
            "gate": Box(360, 5, "gate g from h and p A", "(b, w, d)", "both", 220, "fusion.gate"),
            "joined": Box(360, 6, "[h ; g ∘ p A]", "(b, w, 2d)", "both", 220, "fusion"),
            "matching": Box(605, 4, "loss, wrong images too, times λ", "a number", "out", 222),
            "alignment": Box(360, 2, "InfoNCE, times λ", "a number", "out", 150),
            **tail(7),
        },
        (
            "encoder.b words.t", "image.b regions.t", "regions.b projected.t", "words.b+40 seen.l",
            "projected.b seen.r", "seen.b matcher.t", "matcher.r matching.l", "matcher.b gate.t", "gate.b joined.t",
            "words.b+60 alignment.l", "regions.b-90 alignment.r", "words.l joined.l @40", "joined.b head.t", *TAIL,
        ),
    ),
    "retrieval_experts": Figure(
        "RetrievalExperts: an expert for each source of context, mixed by a gate",
        {
            "first": Box(190, 0, "post + first context", "(b, t)", "text", 190),
            "second": Box(530, 0, "post + second context", "(b, t)", "text", 190),
            "encoder": Box(190, 1, "text encoder", "(b, t, d)", "text", 210, "text_encoder"),
            "other": Box(530, 1, "the same, or an expert of its own", "(b, t, d)", "text", 250),
            "words": Box(190, 2, "first piece of each word: h_1", "(b, w, d)", "text", 230, "word_projection"),
            "others": Box(530, 2, "first piece of each word: h_2", "(b, w, d)", "text", 230),
            "marginals": Box(130, 4, "Linear, CRF: marginals μ_1", "(b, w, l)", "out", 200),
            "more": Box(590, 4, "Linear, CRF: marginals μ_2", "(b, w, l)", "out", 200),
            "gate": Box(360, 3, "mean words: Linear, softmax: w", "(b, 2)", "both", 250, "gate"),
            "mixture": Box(360, 5, "p = Σ w_k μ_k", "(b, w, l)", "both", 200),
            "tags": Box(360, 6, "best tags that BIO allows, or the loss", "a list of labels for each post", "out", 270),
        },
        (
            "first.b encoder.t", "second.b other.t", "encoder.b words.t", "other.b others.t", "words.b+20 gate.l",
            "others.b-20 gate.r", "words.b-70 marginals.t-10", "others.b+70 more.t+10", "gate.b mixture.t",
            "marginals.b mixture.l", "more.b mixture.r", "mixture.b tags.t",
        ),
    ),
}  # fmt: skip


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        (folder / f"{name}.svg").write_text(figure.svg(), encoding="utf-8")


if __name__ == "__main__":
    write()
