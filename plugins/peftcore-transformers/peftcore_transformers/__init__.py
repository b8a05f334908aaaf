"""What plugins of transformers' families build on, and the training hooks in a Trainer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftcore_transformers.trainer import add_training_hooks as add_training_hooks


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used: transformers' Trainer takes seconds."""
    if name != "add_training_hooks":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from peftcore_transformers import trainer

    return trainer.add_training_hooks
