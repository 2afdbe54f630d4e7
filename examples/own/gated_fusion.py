"""A fusion of one's own: the image's mean region gates each word."""

from torch import nn

from mner.fusion import FusionModule
from mner.nn import masked_mean


class GatedFusion(FusionModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = nn.Linear(self.width, self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        scene = masked_mean(regions, region_mask)[:, None].expand_as(words)
        gate = self.gate(words * scene).sigmoid()
        return gate * words + (1 - gate) * scene
