"""Reasoning, GLUE and instructions as LoReFT and LLM-Adapters train and score them."""

from peftcore import CommandSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks."""
    return [
        TaskSpec(
            name="reasoning",
            summary="Answer commonsense and arithmetic questions of the LLM-Adapters sets.",
            config="peftcore_reasoning.reasoning:ReasoningConfig",
            task="peftcore_reasoning.reasoning:Reasoning",
        ),
        TaskSpec(
            name="instruction",
            summary="Follow instructions: Alpaca, UltraFeedback, outputs for AlpacaEval.",
            config="peftcore_reasoning.instruction:InstructionConfig",
            task="peftcore_reasoning.instruction:Instruction",
        ),
    ]
