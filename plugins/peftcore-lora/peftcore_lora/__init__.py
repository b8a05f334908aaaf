"""LoRA, rsLoRA, PiSSA and OLoRA: low-rank updates of linear, embedding and convolution layers."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``lora``."""
    return MethodSpec(
        name="lora",
        summary="Low-rank update B A of linear, embedding and convolution weights; mergeable.",
        config="peftcore_lora.config:LoraConfig",
        method="peftcore_lora.method:Lora",
        paper="Hu et al. 2022, LoRA, https://arxiv.org/abs/2106.09685;"
        " rsLoRA: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732;"
        " PiSSA: Meng et al. 2024, https://arxiv.org/abs/2404.02948;"
        " OLoRA: Büyükakyüz 2024, https://arxiv.org/abs/2406.01775",
    )
