"""Whether what the adapters of a model hold is still what sits in the model."""

from __future__ import annotations

from collections.abc import Sequence

from peftcore.adapter.state import Attached
from peftcore.errors import AttachError
from peftcore.model.walk import bare_class


def verify(adapters: Sequence[Attached]) -> None:
    """Compare what adapters hold with what is in the model, before something is done with it.

    Raises:
        AttachError: a module or parameter was replaced, or resized, since it was rewritten.
    """
    for adapter in adapters:
        adapter.come_home()
        _verify_modules(adapter)
        _verify_values(adapter, active=adapter.is_in)


def _verify_modules(adapter: Attached) -> None:
    modules = adapter.plan.survey.modules
    for item in adapter.placed:
        path, module = item.site.path, item.site.module
        above, _, leaf = path.rpartition(".")
        parent = modules.get(above)
        if path and parent is not None and parent._modules.get(leaf) is not module:
            raise AttachError(
                f"{path} is not the module that adapter {adapter.name!r} was attached to: it was"
                " replaced since. Put the module back, or detach the adapter and attach or load it"
                " anew."
            )
        if type(module) is bare_class(module):
            raise AttachError(
                f"{path} was rewritten for adapter {adapter.name!r} and is not any more: something"
                " has given the module its class back. Detach the adapter and attach it anew."
            )
        weight = module._parameters.get(item.site.weight_name)
        kept = item.site.layer.weight_shape
        layer = item.site.features is None and weight is not None and item.site.kind == "embedding"
        if layer and weight is not None and kept and tuple(weight.shape) != tuple(kept):
            raise AttachError(
                f"{path} had a weight of {tuple(kept)} when adapter {adapter.name!r} was attached,"
                f" and has one of {tuple(weight.shape)} now. Resize before attaching: detach the"
                " adapter and attach it anew."
            )


def _verify_values(adapter: Attached, *, active: bool) -> None:
    for swap in adapter.swaps:
        swap.check_at_hand()
        for module, leaf in swap.places:
            there = module._parameters.get(leaf)
            if there is not swap.own and there is not swap.base and not active:
                continue  # another adapter's value, which is checked as that one's
            if active and there is not swap.own:
                raise AttachError(
                    f"{swap.selected.info.name} is not the parameter that adapter {adapter.name!r}"
                    " trains: it was replaced since, by a resize or by hand. Resize before"
                    " attaching: detach the adapter and attach it anew."
                )
