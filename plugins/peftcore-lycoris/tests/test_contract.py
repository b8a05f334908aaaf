"""What every method must do."""

from peftcore.testing import MethodContract

#: WavLM reads the weights of its attention and never calls the layers.
ON_WAVLM = {"rank_dropout": {"attention.*": 0.0, "default": 0.2}}


class TestLoHa(MethodContract):
    method = "loha"
    config = {"alpha": 16}


class TestLoHaEverywhere(MethodContract):
    method = "loha"
    config = {"rank": {"default": 2, "mlp.*": 4}, "rank_dropout": 0.2, "targets": ["all-linear"]}
    on = {"wavlm": ON_WAVLM}


class TestLoKr(MethodContract):
    method = "lokr"


class TestLoKrInTwo(MethodContract):
    method = "lokr"
    config = {
        "rank": 1,
        "alpha": 4,
        "decompose_both": True,
        "rank_dropout": 0.2,
        "targets": ["all-linear"],
    }
    on = {"wavlm": ON_WAVLM}
