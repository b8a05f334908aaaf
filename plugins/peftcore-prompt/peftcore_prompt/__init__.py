"""Soft prompts: learned vectors among the tokens of a model, or of each of its blocks."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``prompt``, ``vpt`` and ``embedding_prompt``."""
    return [
        MethodSpec(
            name="prompt",
            summary="Prompt tuning: learned vectors among the embedded tokens of the input.",
            config="peftcore_prompt.config:PromptConfig",
            method="peftcore_prompt.prompt:Prompt",
            paper="Lester et al. 2021, prompt tuning, https://arxiv.org/abs/2104.08691",
            identity_at_start=False,
            needs=("tokens", "vocabulary", "one-pass"),
        ),
        MethodSpec(
            name="vpt",
            summary="Visual prompt tuning: learned tokens in the first block, or in every block.",
            config="peftcore_prompt.config:VptConfig",
            method="peftcore_prompt.blocks:Vpt",
            paper="Jia et al. 2022, visual prompt tuning, https://arxiv.org/abs/2203.12119",
            identity_at_start=False,
            needs=("tokens", "bidirectional", "further-tokens"),
        ),
        MethodSpec(
            name="embedding_prompt",
            summary="Learned tokens before the input of each block, dropped after it.",
            config="peftcore_prompt.config:EmbeddingPromptConfig",
            method="peftcore_prompt.blocks:EmbeddingPrompt",
            paper="Feng et al. 2023, PEFT-SER, https://arxiv.org/abs/2306.05350",
            identity_at_start=False,
            needs=("tokens", "bidirectional", "further-tokens"),
        ),
    ]
