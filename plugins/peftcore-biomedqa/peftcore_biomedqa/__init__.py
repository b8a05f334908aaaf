"""Yes, no or maybe to biomedical questions, by an encoder with a decoder: a reconstruction.

Of Wang et al. 2023 (BIBM) the abstract alone is known, and no code: T5, several stages, contrastive
learning, a vote of self-consistency, PubMedQA and BioASQ, 0.152 % of the parameters. All else here
is this plugin's own design.
"""

from peftcore import CommandSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the task on biomedical questions."""
    return [
        TaskSpec(
            name="biomedical-qa",
            summary="Yes, no or maybe to a question with its context; several templates vote.",
            config="peftcore_biomedqa.config:BiomedicalQAConfig",
            task="peftcore_biomedqa.task:BiomedicalQA",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands that write rows of a release, and score answers."""
    return [
        CommandSpec(
            name="qa-rows",
            summary="Write PubMedQA or BioASQ as rows that `predict` reads.",
            command="peftcore_biomedqa.cli:qa_rows",
        ),
        CommandSpec(
            name="qa-score",
            summary="Score answers to yes/no questions by a file of right ones.",
            command="peftcore_biomedqa.cli:qa_score",
        ),
    ]
