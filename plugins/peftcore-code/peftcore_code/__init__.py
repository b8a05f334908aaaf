"""Code review by language models: data, prompts, and the scores of the published evaluator."""

from peftcore import CommandSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the task of code review."""
    return [
        TaskSpec(
            name="code-review",
            summary="Review code: is a comment needed, which one, and the code after it.",
            config="peftcore_code.task:CodeReviewConfig",
            task="peftcore_code.task:CodeReview",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the command that scores answers of any origin."""
    return [
        CommandSpec(
            name="review-score",
            summary="Score written reviews by CodeReviewer's evaluator and by sacrebleu.",
            command="peftcore_code.cli:review_score",
        ),
    ]
