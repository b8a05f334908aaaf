"""What every method must do."""

from peftcore.testing import MethodContract


class TestOft(MethodContract):
    method = "oft"


class TestOftEverywhere(MethodContract):
    method = "oft"
    config = {
        "block_size": {"mlp.*": 8, "default": 4},
        "block_share": True,
        "use_cayley_neumann": True,
        "targets": ["all-linear"],
    }


class TestConstrainedOft(MethodContract):
    method = "oft"
    config = {"block_size": 4, "coft": True, "eps": 0.5}


class TestBoft(MethodContract):
    method = "boft"


class TestBoftWithFactors(MethodContract):
    method = "boft"
    config = {"block_size": 4, "butterfly_factors": 2, "targets": ["all-linear"]}


class TestHra(MethodContract):
    method = "hra"
    # layers for positions read two or three numbers there
    on = {
        "point-m2ae": {"rank": 2},
        "point-transformer": {"rank": 2},
        "timm-swin-v2": {"rank": 2},
    }
    config = {"rank": {"default": 4, "mlp.*": 6}, "targets": ["all-linear"]}
