"""What every method must do."""

from peftcore.testing import MethodContract


class TestAdaLora(MethodContract):
    method = "adalora"
    config = {"init_r": 4, "target_r": 2}


class TestWithDropoutEverywhere(MethodContract):
    method = "adalora"
    config = {
        "init_r": 3, "target_r": 1, "alpha": 6, "dropout": 0.2, "targets": ["all-linear"],
    }  # fmt: skip
    refused_on = {"wavlm": r"dropout 0\.2 cannot act at .* Write dropout: 0"}
