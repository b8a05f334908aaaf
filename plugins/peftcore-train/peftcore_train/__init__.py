"""Training, evaluation and prediction from recipes."""

from peftcore import CommandSpec, ExecutorSpec, FormatSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on text; other plugins bring further ones."""
    return [
        TaskSpec(
            name="sequence-classification",
            summary="One or several labels for a text, a pair of texts, or residues.",
            config="peftcore_train.tasks.classification:ClassificationConfig",
            task="peftcore_train.tasks.classification:SequenceClassification",
        ),
        TaskSpec(
            name="regression",
            summary="One or several numbers for a text, a pair of texts, or residues.",
            config="peftcore_train.tasks.regression:RegressionConfig",
            task="peftcore_train.tasks.regression:Regression",
            model="peftcore_train.planning:model_of",
        ),
        TaskSpec(
            name="token-classification",
            summary="A label for each word or residue; entities (BIO) or plain labels.",
            config="peftcore_train.tasks.token_classification:TokenClassificationConfig",
            task="peftcore_train.tasks.token_classification:TokenClassification",
        ),
        TaskSpec(
            name="question-answering",
            summary="Find the part of a context that answers a question, or that none does.",
            config="peftcore_train.tasks.question_answering:QuestionAnsweringConfig",
            task="peftcore_train.tasks.question_answering:QuestionAnswering",
        ),
        TaskSpec(
            name="embedding",
            summary="Vectors of texts, from pairs, triplets, or pairs with a similarity score.",
            config="peftcore_train.tasks.embedding:EmbeddingConfig",
            task="peftcore_train.tasks.embedding:Embedding",
            model="peftcore_train.planning:model_of",
        ),
        TaskSpec(
            name="masked-lm",
            summary="Predict tokens that were masked at random.",
            config="peftcore_train.tasks.masked_lm:MaskedLMConfig",
            task="peftcore_train.tasks.masked_lm:MaskedLM",
        ),
        TaskSpec(
            name="causal-lm",
            summary="Continue a prompt, answer in a conversation, or write plain text.",
            config="peftcore_train.tasks.causal_lm:CausalLMConfig",
            task="peftcore_train.tasks.causal_lm:CausalLM",
        ),
        TaskSpec(
            name="seq2seq",
            summary="Read a source and write a target: translation, summaries.",
            config="peftcore_train.tasks.seq2seq:Seq2SeqConfig",
            task="peftcore_train.tasks.seq2seq:Seq2Seq",
        ),
        TaskSpec(
            name="preference",
            summary="Prefer one of two answers (DPO, IPO); the base is the reference.",
            config="peftcore_train.tasks.preference:PreferenceConfig",
            task="peftcore_train.tasks.preference:Preference",
        ),
    ]


@hookimpl
def peftcore_register_formats() -> list[FormatSpec]:
    """Return formats of rows that belong to no field; all but parquet may be gzip."""
    here = "peftcore_train.data"
    return [
        FormatSpec(".jsonl", "One object of JSON a line.", f"{here}.formats:of_json"),
        FormatSpec(".json", "One array of objects of JSON.", f"{here}.arrays:array"),
        FormatSpec(
            ".csv", "A table with a header, commas and quotes.", f"{here}.formats:of_commas"
        ),
        FormatSpec(".tsv", "A table with a header and tabs.", f"{here}.formats:of_tabs"),
        FormatSpec(".txt", "One text a line.", f"{here}.formats:of_lines"),
        FormatSpec(".parquet", "A table in columns, through pyarrow.", f"{here}.tables:parquet"),
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
            function="peftcore_train.api:train",
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
        CommandSpec(
            name="compare",
            summary="Compare methods by settings and seeds on one task.",
            command="peftcore_train.cli.compare:compare",
            reads=(".yaml", ".yml"),
            function="peftcore_train.api:compare",
        ),
    ]


@hookimpl
def peftcore_register_executors() -> list[ExecutorSpec]:
    """Return where runs of a comparison are computed on one machine."""
    return [
        ExecutorSpec(
            name="processes",
            summary="A process for each run, as many at a time as memory allows.",
            executor="peftcore_train.comparing.executors:Processes",
        ),
        ExecutorSpec(
            name="in-process",
            summary="This process, one run after another.",
            executor="peftcore_train.comparing.executors:InProcess",
        ),
    ]
