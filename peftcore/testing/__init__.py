"""The contract kit: what every plugin, ours or a stranger's, is tested with.

Subclass the contract of what the plugin brings in a test file, and name it::

    from peftcore.testing import MethodContract

    class TestLora(MethodContract):
        method = "lora"
"""

from peftcore.lazy import from_stub

__getattr__, __dir__ = from_stub(__name__, __file__)
