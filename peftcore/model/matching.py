"""Whether targets choose something in a model, and something that can be rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftcore.errors import AttachError, TargetError, nearest
from peftcore.model.sites import Site
from peftcore.model.survey import Survey
from peftcore.model.targets import Targets


def check_targets(survey: Survey, config_name: str, targets: Mapping[str, Targets]) -> list[str]:
    """Return one sentence for each target pattern that matches nothing."""
    found = []
    places = survey.places
    stacks = {site.stack: site.stack_blocks for site in survey.sites if site.stack}
    for field, chosen in targets.items():
        where = f"{config_name}.{field}"
        if chosen.stack is not None and chosen.stack not in stacks:
            known = f"Its stacks: {', '.join(stacks)}." if stacks else "It is one: leave stack out."
            near = nearest(chosen.stack, stacks)
            found.append(f"{where}: this model has no stack {chosen.stack!r}.{near} {known}")
            continue
        first, stop = (0, survey.blocks) if chosen.stack is None else stacks[chosen.stack]
        try:
            chosen.indices(stop - first)
        except TargetError as error:
            found.append(f"{where}: {error}")
            continue
        for pattern in (*chosen.roles, *chosen.exclude):
            one = Targets(roles=(pattern,))
            if not any(one.match(place) for place in places):
                found.append(
                    f"{where}: {pattern!r} matches nothing in this model."
                    f"{nearest(pattern, survey.roles())} Roles here: {_roles(survey)}."
                )
        if not found and not any(chosen.match(place) for place in places):
            after = "stack, layers" if chosen.stack else "layers"
            found.append(f"{where}: no site is left after {after} and exclude.")
    return found


def _roles(survey: Survey) -> str:
    return ", ".join(sorted(survey.roles())) or "none"


def check_shared(survey: Survey, sites: Sequence[Site]) -> None:
    """Refuse to rewrite a module that the model uses in several places."""
    for site in sites:
        paths = survey.shared.get(site.path)
        if paths:
            raise AttachError(
                f"{paths[0]} and {paths[1]} are one and the same module; a piece there would act in"
                " both places. Exclude it, or give each place its own copy of the module."
            )
