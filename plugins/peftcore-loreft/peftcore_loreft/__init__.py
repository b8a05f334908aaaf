"""The ReFT family: learned edits of hidden vectors at chosen positions of the prompt."""

from peftcore import MethodSpec, hookimpl
from peftcore_loreft.dii import dii

__all__ = ["dii"]

#: Name to (class of the configuration, summary).
_METHODS = {
    "loreft": (
        "SourceConfig",
        "LoReFT: edit hidden vectors inside an orthonormal low-rank subspace.",
    ),
    "direft": ("SourceConfig", "DiReFT: LoReFT without orthogonality and without subtraction."),
    "direft_orth": ("SourceConfig", "DiReFT as in the released code: LoReFT without subtraction."),
    "noreft": ("NoreftConfig", "NoReFT: LoReFT without orthogonality."),
    "consreft": ("ReftConfig", "ConsReFT: set an orthonormal low-rank subspace to constants."),
    "lobireft": ("ReftConfig", "LobiReFT: add a bias inside an orthonormal low-rank subspace."),
}


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the six methods of the family."""
    method, paper = (
        "peftcore_loreft.method:Reft",
        "Wu et al. 2024, https://arxiv.org/abs/2404.03592",
    )
    return [
        MethodSpec(
            name,
            summary,
            f"peftcore_loreft.config:{config}",
            method,
            paper,
            identity_at_start=False,
            needs=("tokens",),
        )
        for name, (config, summary) in _METHODS.items()
    ]
