"""A sound strategy, and many that are broken on purpose, each in its own way: what `check_fusion` must find."""

import torch
from torch import nn

from mner.fusion import FusionModule
from mner.nn.attention import Attention
from mner.nn.masking import masked_mean, masked_softmax

ALL_NEEDS = frozenset({"boxes", "scores", "object_names", "relation", "groups"})


class Sound(FusionModule):
    """Words and the mean of the regions; most of those below break it."""

    def fuse(self, words, word_mask, regions, region_mask):
        return words + masked_mean(regions, region_mask)[:, None]


class LacksALabel(Sound):
    def emissions(self, batch):
        return super().emissions(batch)[..., 1:]


class NotANumber(Sound):
    def emissions(self, batch):
        return super().emissions(batch) * float("nan")


class TagsPadding(Sound):
    def decode(self, emissions, batch):
        return emissions.argmax(-1).tolist()


class Spare(Sound):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.spare = nn.Linear(3, 3)


class Zeroed(Sound):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Linear(self.width, self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(words + 0 * self.scale(words), word_mask, regions, region_mask)


class NeedsNeighbours(Sound):
    def losses(self, batch):
        count = torch.tensor(float(len(batch["id"])))
        return {**super().losses(batch), "contrast": self.head.weight.mean() / count.log()}


class LossOfEach(Sound):
    def losses(self, batch):
        return {"tagging": super().losses(batch)["tagging"].expand(2)}


class InfiniteSlope(Sound):
    def losses(self, batch):
        return {**super().losses(batch), "norm": (self.head.bias - self.head.bias).sum().sqrt()}


class MeanOfPosts(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(words - words.mean(0), word_mask, regions, region_mask)


class BatchNorm(Sound):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        normal = self.norm(words.flatten(0, 1)).view_as(words)
        return super().fuse(normal, word_mask, regions, region_mask)


class MeanOfPaddedWords(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(words + words.mean(1, keepdim=True), word_mask, regions, region_mask)


class LossOfPaddedWords(Sound):
    def losses(self, batch):
        return {**super().losses(batch), "norm": self.encode(batch).square().sum()}


class MeanOfPaddedPieces(Sound):
    def encode(self, batch):
        states = self.text_encoder(batch["token_ids"], batch["token_mask"], batch["segment_ids"])
        return super().encode(batch) + states.mean(1, keepdim=True)


class MeanOfPaddedRegions(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        return words + regions.mean(1, keepdim=True)


class FirstRegion(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        return words + regions[:, :1]


class Forgets(Sound):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.secret = torch.randn(self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(words + self.secret, word_mask, regions, region_mask)


class NoParts(Sound):
    """Its constructor takes a module, which a checkpoint cannot hold."""

    def __init__(self, *args, layer=nn.Tanh(), **kwargs):  # noqa: B008
        super().__init__(*args, **kwargs)
        self.layer = layer

    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(self.layer(words), word_mask, regions, region_mask)


class ReadsTheField(Sound):
    def raw_regions(self, batch):
        regions, mask = super().raw_regions(batch)
        return regions + 0 * batch["regions"].sum(), mask


class ReadsWhatIsMissing(Sound):
    def raw_regions(self, batch):
        regions, mask = super().raw_regions(batch)
        if "regions" in batch:  # the first slot of a post without image holds no_image
            regions = torch.where(mask[..., None], regions + batch["regions"], regions)
        return regions, mask


class UnboundWithoutImages(Sound):
    def regions(self, batch):
        regions, mask = super().regions(batch)
        return regions / batch["has_image"].any(), mask


class MeanOfEntities(Sound):
    def losses(self, batch):
        return {**super().losses(batch), "size": self.emissions(batch)[batch["tags"] > 0].mean() ** 2}


class OwnPrecision(Sound):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inner = nn.Linear(self.width, self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        fused = torch.zeros(words.shape)
        fused[word_mask] = self.inner(words[word_mask])
        return super().fuse(fused, word_mask, regions, region_mask)


class Rough(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        fused = super().fuse(words, word_mask, regions, region_mask)
        return fused * 3 if torch.is_autocast_enabled("cpu") else fused


class OtherwiseCompiled(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        fused = super().fuse(words, word_mask, regions, region_mask)
        return 2 * fused if torch.compiler.is_compiling() else fused


class Looking(Sound):
    """Attends to regions by the given weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.attention = self.Weights()

    class Weights(Attention):
        def forward(self, words, regions, region_mask):
            weights = masked_softmax(words @ regions.transpose(1, 2), region_mask[:, None])
            return weights @ regions, weights

    def fuse(self, words, word_mask, regions, region_mask):
        return words + self.attention(words, regions, region_mask)[0]


class NoDistribution(Looking):
    class Weights(Attention):
        def forward(self, words, regions, region_mask):
            weights = (words @ regions.transpose(1, 2)).sigmoid() * region_mask[:, None]
            return weights @ regions, weights


class LooksAtPadding(Looking):
    class Weights(Attention):
        def forward(self, words, regions, region_mask):
            weights = (words @ regions.transpose(1, 2)).softmax(-1)
            return weights @ regions, weights


class ReadsWords(Looking):
    class Weights(Attention):
        def forward(self, words, regions, region_mask):
            weights = (words @ regions.transpose(1, 2)).softmax(1)  # over the words, which it does not say
            return masked_mean(regions, region_mask)[:, None], torch.cat([weights, weights], -1)


class Blind(Sound):
    def fuse(self, words, word_mask, regions, region_mask):
        return words


class Peeks(Blind):
    uses_image = False

    def encode(self, batch):
        words = super().encode(batch)
        if "regions" in batch:
            words = words + masked_mean(batch["regions"], batch["region_mask"]).sum(-1)[:, None, None]
        return words


class Unbuildable(Sound):
    def __init__(self, *args, **kwargs):
        raise KeyError("kernel")


class NeedsTheMoon(Sound):
    needs = frozenset({"moon"})


class PrefersTheFirst(FirstRegion):
    region_order_matters = True


class Untraceable(OtherwiseCompiled):
    refuses_compile = "it counts its calls"


class StartsShut(Sound):
    """A gate that starts at 0 is no fault: after one step what is behind it has a gradient."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = nn.Parameter(torch.zeros(()))
        self.inner = nn.Linear(self.width, self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        return super().fuse(words, word_mask, self.gate * self.inner(regions), region_mask)


class Needy(Sound):
    """Reads all that can be asked for, as its masks allow."""

    needs = ALL_NEEDS

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.place = nn.Linear(4, self.width)
        self.thing = nn.Embedding(40, self.width)
        self.group = nn.Embedding(40, self.width)

    def regions(self, batch):
        regions, mask = super().regions(batch)
        lengths = torch.tensor([[len(name) for name in names] for names in batch["object_names"]])
        place = self.place(batch["region_boxes"]) + self.thing(lengths) + self.group(batch["region_group"])
        relation = batch["relation"].nan_to_num(0.5)[:, None, None]
        return (regions + place) * (batch["region_scores"][..., None] + 0.1) * relation, mask


class NeedyInOrder(Needy):
    def regions(self, batch):
        regions, mask = super().regions(batch)
        return regions + batch["region_boxes"][:, :1, :1], mask
