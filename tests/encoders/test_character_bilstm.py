"""Characters read by a BiLSTM; `test_characters.py` has the convolutions."""

import pytest
import torch

from mner.encoders.characters import CharacterEncoder, characters_to_ids


def test_character_bilstm_reads_each_word_alone():
    encoder = CharacterEncoder(8, kind="bilstm")
    posts = [["RT", "@Bieber", ":", "a"], ["Zürich", "🙂"]]
    together = encoder(characters_to_ids(posts))
    for row, post in enumerate(posts):
        for place, word in enumerate(post):
            torch.testing.assert_close(together[row, place], encoder(characters_to_ids([[word]]))[0, 0])
    assert not together[1, 2:].any()
    ids = characters_to_ids([["Zürich"]])[0]
    ahead = encoder.recurrent.forward_layers[0](encoder.embedding(ids))
    behind = encoder.recurrent.backward_layers[0](encoder.embedding(ids.flip(1)))
    torch.testing.assert_close(together[1, 0], torch.cat([ahead[0, -1], behind[0, -1]]))
    together.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())


@pytest.mark.parametrize(("width", "kind"), [(7, "bilstm"), (8, "lstm")])
def test_character_encoders_that_cannot_be(width, kind):
    with pytest.raises(ValueError, match="cnn, or bilstm with an even"):
        CharacterEncoder(width, kind=kind)
