"""Training, evaluation and prediction from recipes."""

from peftcore import CommandSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on text; other plugins bring further ones."""
    return [
        TaskSpec(
            name="sequence-classification",
            summary="One label for a text, a pair of texts, or a sequence of residues.",
            config="peftcore_train.tasks.classification:ClassificationConfig",
            task="peftcore_train.tasks.classification:SequenceClassification",
        ),
        TaskSpec(
            name="masked-lm",
            summary="Predict tokens that were masked at random.",
            config="peftcore_train.tasks.masked_lm:MaskedLMConfig",
            task="peftcore_train.tasks.masked_lm:MaskedLM",
        ),
        TaskSpec(
            name="causal-lm",
            summary="Continue a prompt; the loss is on the completion.",
            config="peftcore_train.tasks.causal_lm:CausalLMConfig",
            task="peftcore_train.tasks.causal_lm:CausalLM",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands that run recipes."""
    return [
        CommandSpec(
            name="train",
            summary="Train what a recipe says and write a run directory.",
            command="peftcore_train.cli.train:train",
            reads=(".yaml", ".yml"),
            plans="peftcore_train.planning:plans_of",
            merges="peftcore_train.merging:mergeable",
        ),
        CommandSpec(
            name="evaluate",
            summary="Score a trained adapter on a split.",
            command="peftcore_train.cli.evaluate:evaluate",
        ),
        CommandSpec(
            name="predict",
            summary="Predict for rows of a file with a trained adapter.",
            command="peftcore_train.cli.predict:predict",
        ),
        CommandSpec(
            name="push",
            summary="Put a run on the Hugging Face hub, with a card made from it.",
            command="peftcore_train.cli.push:push",
        ),
        CommandSpec(
            name="check",
            summary="Check a recipe and its data without training.",
            command="peftcore_train.cli.check:check",
        ),
    ]
