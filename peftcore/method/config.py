"""Configuration of methods."""

from peftcore.schema import Strict


class MethodConfig(Strict):
    """Base of the configuration of every method."""
