"""Partial fine-tuning: a chosen part of the base's own parameters trains, the rest is frozen."""

from peftcore import MethodSpec, hookimpl

_TOUVRON = "Touvron et al. 2022, Three things, https://arxiv.org/abs/2203.09795"


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return layer freezing and its common special cases."""
    return [
        _spec("freeze", "Train the last block, or whatever part is chosen; freeze the rest."),
        _spec("full", "Train everything: full fine-tuning, stored and switched as an adapter."),
        _spec("norm_tuning", "Train the weights and biases of the norms."),
        _spec("attention_tuning", "Train the projections of attention.", _TOUVRON),
    ]


def _spec(name: str, summary: str, paper: str = "") -> MethodSpec:
    config = "".join(part.capitalize() for part in name.split("_"))
    return MethodSpec(
        name=name,
        summary=summary,
        config=f"peftcore_freeze.config:{config}Config",
        method="peftcore_freeze.method:Freeze",
        paper=paper,
        needs=("attention",) if name == "attention_tuning" else (),
    )
