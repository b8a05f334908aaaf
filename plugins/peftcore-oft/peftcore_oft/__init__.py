"""Orthogonal fine-tuning: the inputs of frozen layers are rotated or reflected."""

from peftcore import MethodSpec, hookimpl

#: Name to (summary, paper).
_METHODS = {
    "oft": (
        "Rotation of a layer's input by orthogonal blocks; mergeable.",
        "Qiu et al. 2023, OFT, https://arxiv.org/abs/2306.07280",
    ),
    "boft": (
        "Rotation by a product of butterfly-permuted orthogonal blocks, and scales; mergeable.",
        "Liu et al. 2024, BOFT, https://arxiv.org/abs/2311.06243",
    ),
    "hra": (
        "A chain of Householder reflections of a layer's input; mergeable.",
        "Yuan et al. 2024, HRA, https://arxiv.org/abs/2405.17484",
    ),
}


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``oft``, ``boft`` and ``hra``."""
    return [
        MethodSpec(
            name=name,
            summary=summary,
            config=f"peftcore_oft.config:{name.capitalize()}Config",
            method=f"peftcore_oft.method:{name.capitalize()}",
            paper=paper,
            needs=("linear",),
        )
        for name, (summary, paper) in _METHODS.items()
    ]
