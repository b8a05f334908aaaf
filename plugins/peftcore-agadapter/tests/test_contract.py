"""What every method must do."""

from peftcore.testing import MethodContract


class TestKaAdapter(MethodContract):
    method = "kaadapter"
    config = {"rank": 4}
    merges = False
