"""What a model has, found in it or declared by its backbone."""

from __future__ import annotations

from collections.abc import Callable

from peftcore.model.backbones import Structural
from peftcore.model.sites import Site
from peftcore.model.survey import Survey
from peftcore.registry.installed import installed


def linear(found: Survey) -> bool:
    """Tell whether there are linear layers besides heads."""
    return any(site.kind == "linear" and _counts(site) for site in found.sites)


def attention(found: Survey) -> bool:
    """Tell whether there is attention whose place is known."""
    roles = {site.role for site in found.sites}
    return any(role == "attention" or role.startswith("attention.") for role in roles)


def vocabulary(found: Survey) -> bool:
    """Tell whether there is a table of token embeddings."""
    return any(site.role == "embeddings" and site.kind == "embedding" for site in found.sites)


def convolutions(found: Survey) -> bool:
    """Tell whether there are convolutions besides the projection of patches."""
    return any(site.kind.startswith("conv") and _counts(site) for site in found.sites)


def further_tokens(found: Survey) -> bool:
    """Tell whether blocks take more tokens than the input has; a family that does not says why."""
    return "further-tokens" not in found.backbone.lacks


def _counts(site: Site) -> bool:
    return site.role not in ("head", "unused", "patch")


def has(found: Survey, feature: str) -> bool:
    """Tell whether a model has a feature."""
    spec = installed().features[feature]
    if spec.found:
        finder: Callable[[Survey], bool] = installed().resolve("features", feature, "found")
        return finder(found)
    return feature in found.backbone.has


def prompt_stack(found: Survey) -> str:
    """Return the stack that reads the prompt, in a model where another one writes; else nothing."""
    writes = found.backbone.writing_stack
    stacks = found.backbone.entries(found.modules[""]) if writes else {}
    others = [stack for stack in stacks if stack != writes]
    return others[0] if len(others) == 1 and writes in stacks else ""


def missing(found: Survey, needs: tuple[str, ...]) -> str:
    """Say why a model cannot take a method that needs some features; empty where it can."""
    if isinstance(found.backbone, Structural):
        return ""  # nothing is known of such a model; the method itself says what it does not find
    absent = [name for name in needs if not has(found, name)]
    reasons = [r for name in absent if (r := found.backbone.lacks.get(name))]
    if reasons or not absent:
        return " and ".join(reasons)
    summaries = [installed().features[name].summary for name in absent]
    return f"it needs {' and '.join(summaries)}, which {found.backbone.name} does not have"
