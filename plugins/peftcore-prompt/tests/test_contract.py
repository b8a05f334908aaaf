"""What every method must do."""

from peftcore.testing import MethodContract


class TestPrompt(MethodContract):
    method = "prompt"
    merges = False
    routes = False  # one mask and one cache serve all rows of the network


class TestVptDeep(MethodContract):
    method = "vpt"
    merges = False


class TestVptProjected(MethodContract):
    method = "vpt"
    config = {"num_virtual_tokens": 3, "project": 4, "dropout": 0.0}
    merges = False


class TestVptShallow(MethodContract):
    method = "vpt"
    config = {"deep": False}
    merges = False
    routes = False  # rows without such tokens come out shorter


class TestEmbeddingPrompt(MethodContract):
    method = "embedding_prompt"
    merges = False
