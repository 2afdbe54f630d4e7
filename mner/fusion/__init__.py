"""Fusion strategies: one file each, one paper each."""

from mner.fusion.base import FusionModule
from mner.fusion.character_word_image import CharacterImage, CharacterWord, CharacterWordImage, WordImage
from mner.fusion.co_attention import CoAttention
from mner.fusion.concatenation import Concatenation, ConcatenationWithoutCharacters
from mner.fusion.correlation_fusion import CorrelationFusion
from mner.fusion.cross_modal_encoder import CrossModalEncoder
from mner.fusion.cross_view_alignment import CrossViewAlignment
from mner.fusion.guiding_objects import GuidingObjects
from mner.fusion.matching_alignment import MatchingAlignment
from mner.fusion.modality_attention import ModalityAttention
from mner.fusion.multimodal_graph import MultimodalGraph
from mner.fusion.object_aware import ObjectAware
from mner.fusion.relation_inference import RelationInference
from mner.fusion.relation_propagation import RelationPropagation
from mner.fusion.retrieval_experts import RetrievalExperts
from mner.fusion.text_only import TextOnly
from mner.fusion.transformer_attention import TransformerAttention
from mner.fusion.two_stream import TwoStream
from mner.fusion.unified_multimodal_transformer import UnifiedMultimodalTransformer
from mner.fusion.visual_attention import VisualAttention
from mner.fusion.visual_prefix import VisualPrefix
from mner.fusion.visually_aided_attention import VisuallyAidedAttention
from mner.nn.attention_maps import capture_attention, region_map

__all__ = [
    "CharacterImage",
    "CharacterWord",
    "CharacterWordImage",
    "CoAttention",
    "Concatenation",
    "ConcatenationWithoutCharacters",
    "CorrelationFusion",
    "CrossModalEncoder",
    "CrossViewAlignment",
    "FusionModule",
    "GuidingObjects",
    "MatchingAlignment",
    "ModalityAttention",
    "MultimodalGraph",
    "ObjectAware",
    "RelationInference",
    "RelationPropagation",
    "RetrievalExperts",
    "TextOnly",
    "TransformerAttention",
    "TwoStream",
    "UnifiedMultimodalTransformer",
    "VisualAttention",
    "VisualPrefix",
    "VisuallyAidedAttention",
    "WordImage",
    "capture_attention",
    "region_map",
]
