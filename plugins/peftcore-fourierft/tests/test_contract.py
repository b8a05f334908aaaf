"""What every method must do."""

from peftcore.testing import MethodContract


class TestFourierFt(MethodContract):
    method = "fourierft"


class TestFourierFtEverywhere(MethodContract):
    method = "fourierft"
    config = {
        "n_frequency": {"mlp.*": 30, "default": 20},
        "scaling": 20,
        "random_loc_seed": 1,
        "targets": ["all-linear"],
    }
