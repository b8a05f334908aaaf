"""LoHa and LoKr: updates that are Hadamard or Kronecker products of small matrices."""

from peftcore import MethodSpec, hookimpl

#: Name to (class, summary, paper).
_METHODS = {
    "loha": (
        "LoHa",
        "Hadamard product of two low-rank updates, of rank up to r²; mergeable.",
        "Hyeon-Woo et al. 2022, FedPara, https://arxiv.org/abs/2108.06098",
    ),
    "lokr": (
        "LoKr",
        "Kronecker product of a small matrix and a low-rank one; mergeable.",
        "Yeh et al. 2024, LyCORIS, https://arxiv.org/abs/2309.14859",
    ),
}


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``loha`` and ``lokr``."""
    return [
        MethodSpec(
            name=name,
            summary=summary,
            config=f"peftcore_lycoris.config:{cls}Config",
            method=f"peftcore_lycoris.method:{cls}",
            paper=paper,
            needs=("linear",),
        )
        for name, (cls, summary, paper) in _METHODS.items()
    ]
