"""What every method must do."""

from peftcore.testing import MethodContract

#: The decoder of a seq2seq model is refused; methods of blocks act on the encoder.
ENCODER = {"targets": {"roles": ["block"], "stack": "encoder"}}
#: Where it needs other settings: frames of sound have no class token before them.
ON = {
    **{name: {"after": 0} for name in ("wavlm", "wav2vec2", "hubert")},
    "whisper": {**ENCODER, "after": 0},
    **dict.fromkeys(("t5", "bart"), ENCODER),
}


class TestPrompt(MethodContract):
    method = "prompt"
    # the kit's rows are short, and so are the tables of positions of its models
    config = {"num_virtual_tokens": 4}
    merges = False
    routes = False  # one mask and one cache serve all rows of the network


class TestVptDeep(MethodContract):
    method = "vpt"
    on = ON
    merges = False


class TestVptProjected(MethodContract):
    method = "vpt"
    on = ON
    config = {"num_virtual_tokens": 3, "project": 4, "dropout": 0.0}
    merges = False


class TestVptShallow(MethodContract):
    method = "vpt"
    on = ON
    config = {"deep": False}
    merges = False
    routes = False  # rows without such tokens come out shorter


class TestEmbeddingPrompt(MethodContract):
    method = "embedding_prompt"
    on = dict.fromkeys(("whisper", "t5", "bart"), ENCODER)
    merges = False
