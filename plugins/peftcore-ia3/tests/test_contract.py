"""What every method must do."""

from peftcore.testing import MethodContract


class TestIa3(MethodContract):
    method = "ia3"


class TestOutputsEverywhere(MethodContract):
    method = "ia3"
    config = {"targets": ["all-linear"], "feedforward": None}
