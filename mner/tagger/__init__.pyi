from .post import Context as Context
from .post import Entity as Entity
from .post import Post as Post
from .post import Tagged as Tagged
from .preprocessor import ImageWarning as ImageWarning
from .tagger import Tagger as Tagger
