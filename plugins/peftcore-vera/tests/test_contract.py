"""What every method must do."""

from peftcore.testing import MethodContract


class TestVera(MethodContract):
    method = "vera"
    config = {"rank": 8}


class TestWithDropoutEverywhere(MethodContract):
    method = "vera"
    config = {"rank": 40, "dropout": 0.2, "d_initial": 0.5, "targets": ["all-linear"]}
    refused_on = {"wavlm": r"dropout 0\.2 cannot act at .* Write dropout: 0"}
