"""Small methods for peftcore: each uses something of the core that few methods need."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods."""
    return [
        MethodSpec(
            name="mola",
            summary="Mixture of low-rank experts at each layer, with a router of tokens.",
            config="peftcore_small_methods.mola:MolaConfig",
            method="peftcore_small_methods.mola:Mola",
            paper="Gao et al. 2024, https://arxiv.org/abs/2402.08562",
            needs=("linear",),
        ),
        MethodSpec(
            name="sparse_peft",
            summary="Low-rank update that is pruned together with the weight it changes.",
            config="peftcore_small_methods.sparse_peft:SparsePeftConfig",
            method="peftcore_small_methods.sparse_peft:SparsePeft",
            paper="Munoz et al. 2024, https://arxiv.org/abs/2410.03750",
            needs=("linear",),
        ),
        MethodSpec(
            name="router_tuning",
            summary="Routers that learn which rows or tokens can skip attention.",
            config="peftcore_small_methods.router_tuning:RouterTuningConfig",
            method="peftcore_small_methods.router_tuning:RouterTuning",
            paper="He et al. 2024, https://arxiv.org/abs/2410.13184",
            needs=("attention", "tokens"),
        ),
        MethodSpec(
            name="red",
            summary="Scaling and bias of what feed-forward parts give.",
            config="peftcore_small_methods.red:RedConfig",
            method="peftcore_small_methods.red:Red",
            paper="Wu et al. 2024, https://arxiv.org/abs/2402.15179",
            needs=("tokens",),
        ),
        MethodSpec(
            name="tied_lora",
            summary="One low-rank update of a token table and of the output layer tied to it.",
            config="peftcore_small_methods.tied_lora:TiedLoraConfig",
            method="peftcore_small_methods.tied_lora:TiedLora",
            paper="Hu et al. 2022, https://arxiv.org/abs/2106.09685",
            needs=("vocabulary",),
        ),
        MethodSpec(
            name="lst",
            summary="Small network beside the frozen one; no gradient goes through the frozen one.",
            config="peftcore_small_methods.lst:LstConfig",
            method="peftcore_small_methods.lst:Lst",
            paper="Sung et al. 2022, https://arxiv.org/abs/2206.06522",
            identity_at_start=False,
            needs=("tokens", "bidirectional", "one-pass"),
        ),
        MethodSpec(
            name="swa_lora",
            summary="Low-rank update whose factors are averaged over the last steps of a run.",
            config="peftcore_small_methods.swa_lora:SwaLoraConfig",
            method="peftcore_small_methods.swa_lora:SwaLora",
            paper="Izmailov et al. 2018, https://arxiv.org/abs/1803.05407",
            needs=("linear",),
        ),
    ]
