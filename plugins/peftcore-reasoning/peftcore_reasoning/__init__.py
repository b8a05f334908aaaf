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
        TaskSpec(
            name="glue",
            summary="The nine tasks of GLUE, validated as LoReFT does.",
            config="peftcore_reasoning.glue:GlueConfig",
            task="peftcore_reasoning.glue:Glue",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands."""
    return [
        CommandSpec(
            name="survey",
            summary="Plan every row of the survey's Tables 1 and 2 beside what it prints.",
            command="peftcore_reasoning.cli:survey",
        ),
        CommandSpec(
            name="answers",
            summary="Score a file of written answers as LoReFT or LLM-Adapters does.",
            command="peftcore_reasoning.cli:answers",
        ),
    ]
