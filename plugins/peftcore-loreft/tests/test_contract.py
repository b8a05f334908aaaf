"""What every method must do."""

from peftcore.testing import MethodContract


class TestLoreft(MethodContract):
    method = "loreft"
    config = {"rank": 2, "positions": "f2+l2"}
    merges = False


class TestLoreftUntied(MethodContract):
    method = "loreft"
    config = {"rank": 2, "positions": "f1+l2", "share_weights": False, "act_fn": "gelu"}
    merges = False


class TestDireft(MethodContract):
    method = "direft"
    config = {"rank": 2, "positions": "all"}
    merges = False


class TestDireftOrth(MethodContract):
    method = "direft_orth"
    config = {"rank": 2, "positions": "l2"}
    merges = False


class TestNoreft(MethodContract):
    method = "noreft"
    config = {"rank": 2, "positions": "f2+l2", "add_bias": True}
    merges = False


class TestConsreft(MethodContract):
    method = "consreft"
    config = {"rank": 2, "positions": "f2+l2"}
    merges = False


class TestLobireft(MethodContract):
    method = "lobireft"
    config = {"rank": 2, "positions": "f2+l2"}
    merges = False
