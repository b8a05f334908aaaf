"""What a backbone plugin is asked to load, and what it returns once it has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from peftcore.errors import ConfigError, nearest


@dataclass
class Loaded:
    """A backbone that has been loaded from a checkpoint.

    Attributes:
        model: the model, in evaluation mode.
        tokenizer: what turns raw data into the model's inputs, or None.
        fresh: names of parameters that the checkpoint did not hold and that are therefore random.
        source: where it was loaded from, as the user named it.
    """

    model: nn.Module
    tokenizer: Any = None
    fresh: tuple[str, ...] = ()
    source: str = ""


def check_options(
    name: str,
    head: str,
    heads: Sequence[str],
    given: Mapping[str, Any],
    known: Sequence[str],
    more: Iterable[str] = (),
) -> None:
    """Refuse a head and options that a backbone does not have.

    Args:
        name: of the backbone.
        head: what was asked for; ``none`` is always there.
        heads: what there is.
        given: options that were given, by name.
        known: options that there are.
        more: sentences on what else does not fit.

    Raises:
        ConfigError: all of them at once.
    """
    problems = [
        f"{option!r} is not an option of the backbone {name}.{nearest(option, known)}"
        f" Its options: {', '.join(known)}."
        for option in given
        if option not in known
    ]
    if head not in ("none", *heads):
        problems.append(
            f"the backbone {name} has no head {head!r}.{nearest(head, heads)}"
            f" Its heads: {', '.join(('none', *heads))}."
        )
    if found := [*problems, *more]:
        raise ConfigError(found)


def unknown_size(config: str, name: str, sizes: Mapping[str, Any]) -> ConfigError:
    """Return the error for a size that a backbone does not have."""
    return ConfigError(
        f"{config!r} is not a size of {name}.{nearest(config, sizes)}"
        f" Its sizes: {', '.join(sizes)}."
    )
