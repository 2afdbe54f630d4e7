from . import analysis as analysis
from . import data as data
from . import encoders as encoders
from . import errors as errors
from . import fusion as fusion
from . import labels as labels
from . import nn as nn
from . import tagger as tagger
from . import training as training
from .metrics import SpanF1 as SpanF1
from .nn.crf import CRF as CRF
from .tagger.post import Entity as Entity
from .tagger.post import Post as Post
from .tagger.tagger import Tagger as Tagger

__version__: str
