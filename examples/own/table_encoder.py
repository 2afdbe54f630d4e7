"""A text encoder of one's own: a table of vectors and a convolution, as a model of transformers."""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class Table(PreTrainedModel):
    config_class = type("TableConfig", (PretrainedConfig,), {"model_type": "table", "hidden_size": 128})

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.to_dict().get("vocab_size", 3000), config.hidden_size)
        self.mix = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=5, padding=2)

    def forward(self, input_ids, attention_mask):
        states = self.table(input_ids) * attention_mask[..., None]
        return BaseModelOutput(last_hidden_state=self.mix(states.transpose(1, 2)).transpose(1, 2).relu() + states)
