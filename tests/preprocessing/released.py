"""Names and shapes of the weights in the public files of captioners, and state dicts of random values of them."""

import torch


def virtex_shapes(blocks=(3, 4, 6, 3), width=2048, layers=1, words=10000, cnn_width=64, both=True):
    """`bicaptioning_R_50_L1_H2048.pth`: a ResNet without its classifier, and a decoder for each direction."""
    shapes = {"visual.cnn.conv1.weight": (64, 3, 7, 7), **_norm("visual.cnn.bn1", 64)}
    before = 64
    for stage, count in enumerate(blocks):
        inner, outer = (cnn_width << stage), (256 << stage)
        for block in range(count):
            place = f"visual.cnn.layer{stage + 1}.{block}"
            for number, shape in enumerate([(inner, before, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)], 1):
                shapes |= {f"{place}.conv{number}.weight": shape, **_norm(f"{place}.bn{number}", shape[0])}
            if not block:
                shapes[f"{place}.downsample.0.weight"] = (outer, before, 1, 1)
                shapes |= _norm(f"{place}.downsample.1", outer)
            before = outer
    for direction in ("textual", "backward_textual") if both else ("textual",):
        shapes |= {f"{direction}.{name}": shape for name, shape in _decoder(width, layers, words).items()}
    return shapes


def _norm(place, width):
    vectors = {f"{place}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{place}.num_batches_tracked": ()}


def _decoder(width, layers, words):
    shapes = {
        "visual_projection.weight": (width, 2048),
        "visual_projection.bias": (width,),
        "embedding.words.weight": (words, width),
        "embedding.positions.weight": (30, width),
        "embedding.layer_norm.weight": (width,),
        "embedding.layer_norm.bias": (width,),
        "output.weight": (words, width),
        "output.bias": (words,),
    }
    for layer in range(layers):
        place = f"transformer.layers.{layer}"
        for attention in ("self_attn", "multihead_attn"):
            shapes |= {
                f"{place}.{attention}.in_proj_weight": (3 * width, width),
                f"{place}.{attention}.in_proj_bias": (3 * width,),
                f"{place}.{attention}.out_proj.weight": (width, width),
                f"{place}.{attention}.out_proj.bias": (width,),
            }
        shapes |= {
            f"{place}.linear1.weight": (4 * width, width),
            f"{place}.linear1.bias": (4 * width,),
            f"{place}.linear2.weight": (width, 4 * width),
            f"{place}.linear2.bias": (width,),
        }
        for number in (1, 2, 3):
            shapes |= {f"{place}.norm{number}.{name}": (width,) for name in ("weight", "bias")}
    return shapes


def updown_shapes(words=9487, word_width=1000, width=1000, regions=2048, attention=512):
    """`model-best.pth` of an `updown` model; the vocabulary has one word more, for start and end."""
    return {
        "embed.0.weight": (words + 1, word_width),
        "fc_embed.0.weight": (width, regions),
        "fc_embed.0.bias": (width,),
        "att_embed.0.weight": (width, regions),
        "att_embed.0.bias": (width,),
        "logit.weight": (words + 1, width),
        "logit.bias": (words + 1,),
        "ctx2att.weight": (attention, width),
        "ctx2att.bias": (attention,),
        "core.att_lstm.weight_ih": (4 * width, word_width + 2 * width),
        "core.att_lstm.weight_hh": (4 * width, width),
        "core.att_lstm.bias_ih": (4 * width,),
        "core.att_lstm.bias_hh": (4 * width,),
        "core.lang_lstm.weight_ih": (4 * width, 2 * width),
        "core.lang_lstm.weight_hh": (4 * width, width),
        "core.lang_lstm.bias_ih": (4 * width,),
        "core.lang_lstm.bias_hh": (4 * width,),
        "core.attention.h2att.weight": (attention, width),
        "core.attention.h2att.bias": (attention,),
        "core.attention.alpha_net.weight": (1, attention),
        "core.attention.alpha_net.bias": (1,),
    }


def random_state(shapes, seed=0, scale=3.0):
    """Random values, large enough that words depend on all that comes before them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith(("running_var", "layer_norm.weight")) or (".norm" in name and name.endswith("weight")):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan = max(torch.Size(shape[1:]).numel(), 1)
            state[name] = scale * torch.randn(shape, generator=generator) / fan**0.5
    for direction in ("textual", "backward_textual"):
        if f"{direction}.output.weight" in state:
            state[f"{direction}.embedding.words.weight"] = state["textual.output.weight"].clone()
            state[f"{direction}.output.weight"] = state["textual.output.weight"].clone()
            state[f"{direction}.visual_projection.weight"] = state["textual.visual_projection.weight"].clone()
    return state
