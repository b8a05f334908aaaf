"""peftcore: parameter-efficient fine-tuning in which every method and backbone is a plugin.

The public names are declared once, in ``__init__.pyi``; each is imported when it is first used, so
that discovery stays light. What it declares by ``def`` is a command that a plugin brings.
"""

from peftcore.lazy import from_stub
from peftcore.version import __version__ as __version__

__getattr__, __dir__ = from_stub(
    __name__, __file__, functions="peftcore.registry.functions:function_of"
)
