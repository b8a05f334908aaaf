"""What every method must do."""

from peftcore.testing import MethodContract


class TestDora(MethodContract):
    method = "dora"
    config = {"alpha": 4}
    merge_tolerance = 1e-5


class TestWithDropoutEverywhere(MethodContract):
    method = "dora"
    config = {"rank": {"default": 4, "mlp.*": 2}, "dropout": 0.2, "targets": ["all-linear"]}
    refused_on = {"wavlm": r"dropout 0\.2 cannot act at .* Write dropout: 0"}


class TestMagnitudeBeside(MethodContract):
    method = "dora"
    config = {"magnitude_only": ["mlp.*"]}
    on = {"moe": {"magnitude_only": ["mlp.up"]}}  # experts are no linear layers
