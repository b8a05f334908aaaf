"""The contract of backbones, and of the plugin."""

from peftcore.testing import BackboneContract, PluginContract


class TestScBert(BackboneContract):
    backbone = "scbert"
    heads = ("none", "masked-lm", "cell-type")


class TestPlugin(PluginContract):
    plugin = "peftcore-singlecell"
