"""Trained adapters as whole models: what ``peftcore merge RUN`` writes for transformers."""

import json
from pathlib import Path
from typing import Any

import peftcore
from peftcore import ConfigError, Loaded, Strict
from peftcore_train import building
from peftcore_train.progress import Progress
from peftcore_train.task import Task
from peftcore_train.text import most_tokens
from peftcore_train.trained import Trained, one_trained, was_trained


def mergeable(path: Path, source: str | None, allow_other_base: bool) -> Loaded | None:
    """Return the merged model of a run with its tokenizer, ready to be written.

    Its configuration says what the task knows: the names of the labels, the kind of problem.

    Args:
        path: a run directory, or an adapter that training wrote.
        source: where the base's weights are, if not where the run found them.
        allow_other_base: accept a base with other weights.

    Returns:
        None if the path is neither.

    Raises:
        ConfigError: transformers has no class for such a model.
        CheckpointError: the adapter is damaged or belongs to another base.
    """
    if not was_trained(path):
        return None
    overrides = [] if source is None else [f"backbone.source={json.dumps(source)}"]
    return whole_model(one_trained(path, overrides), Progress(), allow_other_base=allow_other_base)


def whole_model(trained: Trained, progress: Progress, *, allow_other_base: bool = False) -> Loaded:
    """Load the model of a trained adapter, fold the adapter into it, and describe the task in it.

    Raises:
        ConfigError: transformers has no class for such a model.
        CheckpointError: the adapter is damaged or belongs to another base.
        MergeError: a method's change is none of weights.
    """
    job, task = trained.job, building.make_task(trained.job)
    check_class(trained, task)
    with progress.doing(f"loading {job.recipe.backbone.source}"):
        model, loaded = building.load_model(job, task)
        peftcore.load(model, trained.adapter, allow_other_base=allow_other_base)
    with progress.doing("merging"):
        peftcore.merge_and_unload(model)
    task.fold(model)
    config: Any = loaded.model.config
    config.update(task.model_config())
    if hasattr(loaded.tokenizer, "model_max_length"):
        _prepare_tokenizer(job.task, loaded, progress)
    return loaded


def check_class(trained: Trained, task: Task) -> None:
    """Refuse a model that transformers cannot read, before any weights are read.

    Raises:
        ConfigError: the task builds a model of its own, or the backbone is not transformers'.
    """
    model, loaded = building.load_model(trained.job, task, on_meta=True)
    name, task_name = type(model).__name__, trained.job.task_type
    keep = f"Keep the adapter, and predict with: peftcore predict {trained.place}"
    if model is not loaded.model:
        raise ConfigError(
            f"{trained.place}: the task {task_name} puts its own {name} around the network, for"
            f" which transformers has no class, so that a merged folder could not be read. {keep}"
        )
    if not hasattr(model, "save_pretrained"):
        raise ConfigError(
            f"{trained.place}: a {name} is no model of transformers and cannot be written as one."
            f" {keep}"
        )


def _prepare_tokenizer(config: Strict, loaded: Loaded, progress: Progress) -> None:
    """Let the tokenizer do by itself what the task does with a text: cut it, and split letters."""
    if getattr(config, "spaced", False):
        split = splitting_letters(loaded.tokenizer)
        if split is None:
            progress.say(
                "the task puts a blank between characters, which this tokenizer cannot do by"
                " itself: give the merged model texts with blanks."
            )
        else:
            loaded.tokenizer = split
    if (limit := most_tokens(getattr(config, "max_length", None), loaded)) is not None:
        loaded.tokenizer.model_max_length = limit


def splitting_letters(tokenizer: Any) -> Any:
    """Return a tokenizer for which every character is a word; None where ids would be others."""
    from tokenizers import Regex, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    given = getattr(tokenizer, "backend_tokenizer", None)
    if given is None:
        return None
    fast = type(given).from_str(given.to_str())
    letters = pre_tokenizers.Split(Regex("."), "isolated")
    before = [] if fast.pre_tokenizer is None else [fast.pre_tokenizer]
    fast.pre_tokenizer = pre_tokenizers.Sequence([*before, letters])
    # the family's own class would make its usual splitting anew when it is read
    made = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )
    return made if made("EVQLV")["input_ids"] == tokenizer("E V Q L V")["input_ids"] else None
