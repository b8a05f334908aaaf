"""Version of the core, for those who stand below its face."""

__version__ = "0.1.0"
