from .callbacks import BestByF1 as BestByF1
from .callbacks import FindLearningRate as FindLearningRate
from .callbacks import LoRA as LoRA
from .module import TaggingModule as TaggingModule
from .trainer import Trainer as Trainer
