"""Decoder-only language models: LLaMA, Mistral, Qwen, Gemma, GPT-2, and those with experts."""

from peftcore import BackboneSpec, LayerSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of decoder-only language models."""
    return [
        BackboneSpec(
            name="llama",
            summary="LLaMA 1 to 3 (Touvron et al. 2023) and its kin: CodeLLaMA, SmolLM2.",
            backbone="peftcore_llm.backbones:Llama",
            matches=("transformers.models.llama.modeling_llama:*",),
            configs=(
                "llama-7b",
                "llama-13b",
                "llama-2-7b",
                "llama-2-13b",
                "llama-3-8b",
                "llama-3.2-1b",
                "codellama-7b",
                "codellama-13b",
                "codellama-34b",
                "smollm2-135m",
                "smollm2-360m",
            ),
        ),
        BackboneSpec(
            name="mistral",
            summary="Mistral 7B (Jiang et al. 2023).",
            backbone="peftcore_llm.backbones:Mistral",
            matches=("transformers.models.mistral.modeling_mistral:*",),
            configs=("mistral-7b",),
        ),
        BackboneSpec(
            name="qwen",
            summary="Qwen 2, 2.5 and 3, dense text models.",
            backbone="peftcore_llm.backbones:Qwen",
            matches=(
                "transformers.models.qwen2.modeling_qwen2:*",
                "transformers.models.qwen3.modeling_qwen3:*",
            ),
            configs=("qwen2.5-0.5b", "qwen2.5-7b", "qwen3-0.6b"),
        ),
        BackboneSpec(
            name="gemma",
            summary="Gemma 1 to 3, text models.",
            backbone="peftcore_llm.backbones:Gemma",
            matches=(
                "transformers.models.gemma.modeling_gemma:*",
                "transformers.models.gemma2.modeling_gemma2:*",
                "transformers.models.gemma3.modeling_gemma3:Gemma3Text*",
                "transformers.models.gemma3.modeling_gemma3:Gemma3ForCausalLM",
            ),
            configs=("gemma-2b", "gemma-7b", "gemma-2-2b", "gemma-3-1b"),
        ),
        BackboneSpec(
            name="moe",
            summary="Mixtral (Jiang et al. 2024), OLMoE, Qwen 2 and 3 MoE, gpt-oss: with experts.",
            backbone="peftcore_llm.experts:Moe",
            matches=tuple(
                f"transformers.models.{name}.modeling_{name}:*"
                for name in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")
            ),
            configs=("mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b"),
        ),
        BackboneSpec(
            name="gpt2",
            summary="GPT-2 (Radford et al. 2019).",
            backbone="peftcore_llm.backbones:Gpt2",
            matches=("transformers.models.gpt2.modeling_gpt2:*",),
            configs=("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
        ),
    ]


@hookimpl
def peftcore_register_layers() -> list[LayerSpec]:
    """Return the handlers of GPT-2's transposed linear, Gemma's scaled embedding, and experts."""
    scaled = (
        "transformers.models.gemma.modeling_gemma:GemmaTextScaledWordEmbedding",
        "transformers.models.gemma2.modeling_gemma2:Gemma2TextScaledWordEmbedding",
        "transformers.models.gemma3.modeling_gemma3:Gemma3TextScaledWordEmbedding",
    )
    return [
        LayerSpec("transformers.pytorch_utils:Conv1D", "peftcore_llm.layers:TransposedLinear"),
        *(LayerSpec(kind, "peftcore_llm.layers:ScaledEmbedding") for kind in scaled),
        LayerSpec("transformers.models.*:*Experts", "peftcore_transformers.experts:Experts"),
    ]
