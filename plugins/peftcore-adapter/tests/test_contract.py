"""What every method must do."""

from peftcore.testing import MethodContract


class TestSeries(MethodContract):
    method = "adapter"
    config = {"bottleneck": 4}
    merges = False


class TestBefore(MethodContract):
    method = "adapter"
    config = {
        "bottleneck": 4,
        "placement": {"mlp.down": "after", "default": "before"},
        "targets": ["mlp.*"],
        "learn_scale": True,
    }
    merges = False


class TestParallel(MethodContract):
    method = "parallel_adapter"
    config = {"bottleneck": {"mlp.up": 3, "default": 4}}
    merges = False


class TestHoulsby(MethodContract):
    method = "houlsby"
    config = {"bottleneck": 4}
    # WavLM reads the weight of attention's output and never calls that layer
    on = {"wavlm": {"targets": ["attention", "mlp.down"]}}
    merges = False


class TestPfeiffer(MethodContract):
    method = "pfeiffer"
    config = {"bottleneck": 4}
    merges = False


class TestHeParallel(MethodContract):
    method = "he_parallel"
    config = {"bottleneck": 4}
    merges = False


class TestAdaptFormer(MethodContract):
    method = "adaptformer"
    config = {"bottleneck": 4}
    merges = False


class TestWithNormAndDropout(MethodContract):
    method = "pfeiffer"
    config = {"bottleneck": 4, "layer_norm": True, "dropout": 0.1, "dropout_at": "inner"}
    merges = False


class TestSerAdapter(MethodContract):
    method = "ser_adapter"
    config = {"bottleneck": 4}
    merges = False
