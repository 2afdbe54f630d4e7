from .callbacks import BestByF1 as BestByF1
from .callbacks import FindLearningRate as FindLearningRate
from .callbacks import LoRA as LoRA
from .module import TaggingModule as TaggingModule
from .techniques import AveragedWeights as AveragedWeights
from .techniques import LayerwiseLearningRates as LayerwiseLearningRates
from .techniques import RDrop as RDrop
from .trainer import Trainer as Trainer
