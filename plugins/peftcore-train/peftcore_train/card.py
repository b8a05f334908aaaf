"""The model card of a run: what it is, how well it does, how it was made, how to load it."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from peftcore import installed, resolve_source
from peftcore_train import building, recipes, rundir
from peftcore_train.paths import is_there
from peftcore_train.report import number
from peftcore_train.task import Task
from peftcore_train.trained import Trained

#: Heads of models to what the hub calls their tasks.
_TAGS = {
    "none": "feature-extraction",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
    "image-classification": "image-classification",
    "audio-classification": "audio-classification",
    "ctc": "automatic-speech-recognition",
    "speech-seq2seq": "automatic-speech-recognition",
}


def model_card(trained: Trained, name: str, *, merged: bool) -> ModelCard:
    """Return the card of a run.

    Args:
        trained: the run.
        name: of the repository, ``owner/name``.
        merged: the repository holds a whole model, not an adapter.
    """
    task = building.make_task(trained.job)
    results = _results(trained.place)
    data = _data(trained, task, results, merged=merged)
    recipe = trained.job.recipe
    methods = "+".join(m["method"] for m in recipe.methods) or "the head alone"
    what = "merged into its base" if merged else "an adapter"
    parts = [
        f"# {name.rpartition('/')[2]}",
        f"`{_short(recipe.backbone.source)}`, tuned by {methods} for {trained.job.task_type} with"
        f" [peftcore](https://pypi.org/project/peftcore/); {what}.",
        _scores(results),
        f"## Load it\n\n{_loading(trained, task, name, merged=merged)}",
        f"## Recipe\n\n```yaml\n{recipes.dump(public_recipe(trained)).strip()}\n```",
        _environment(trained.place),
    ]
    body = "\n\n".join(part for part in parts if part)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def public_recipe(trained: Trained) -> dict[str, Any]:
    """Return the recipe of a run without the folders of the machine that it ran on."""
    recipe = trained.job.resolved()
    for section in ("backbone", "data"):
        recipe[section]["source"] = _short(recipe[section]["source"])
    for key in ("from", "output"):
        if recipe.get(key):
            recipe[key] = _short(recipe[key])
    return recipe


def local_folders(trained: Trained) -> list[str]:
    """Return the folders of this machine that a recipe names."""
    recipe = trained.job.recipe
    named = (recipe.backbone.source, recipe.data.source, recipe.start or "")
    return [text for text in named if Path(text).is_absolute()]


def _data(trained: Trained, task: Task, results: dict[str, Any], *, merged: bool) -> ModelCardData:
    source = trained.job.recipe.backbone.source
    tag = _TAGS.get(task.head) if type(task).build is Task.build else None
    scores = [
        EvalResult(
            task_type=tag or trained.job.task_type,
            dataset_type=_short(trained.job.recipe.data.source),
            dataset_name=_short(trained.job.recipe.data.source),
            dataset_split="test",
            metric_type=name,
            metric_value=value,
        )
        for name, value in results.get("test", {}).items()
        if value is not None and "." not in name
    ]
    return ModelCardData(
        model_name=trained.job.recipe.name,
        base_model=source if _on_hub(source) else None,
        license=_license(source),
        library_name="transformers" if merged else "peftcore",
        pipeline_tag=tag,
        tags=["peftcore", *(m["method"] for m in trained.job.recipe.methods)],
        eval_results=scores or None,
    )


def _on_hub(source: str) -> bool:
    return source not in installed().sources and not is_there(source)


def _short(source: str) -> str:
    """Return a source without the folders above it."""
    return Path(source).name if Path(source).is_absolute() else source


def _license(source: str) -> str | None:
    """Return the licence that the card of a source names, where it has a card that can be read."""
    place = str(resolve_source(source, "model") or source)
    readme = Path(place) / "README.md"
    if is_there(place) and not readme.is_file():
        return None
    try:
        found = ModelCard.load(str(readme) if readme.is_file() else place).data.to_dict()
    except Exception:  # a card that cannot be read, for whatever reason, names no licence
        return None
    licence = found.get("license")
    return licence if isinstance(licence, str) else None


def _results(place: Path) -> dict[str, Any]:
    path = place / rundir.RESULTS
    found: dict[str, Any] = rundir.read_json(path) if path.is_file() else {}
    return found


def _scores(results: dict[str, Any]) -> str:
    if not results:
        return ""
    counts, best = results["parameters"], results["best"]
    lines = [
        "## Scores",
        "",
        f"The best of {results['steps']:,} steps by validation {results['metric']}, after epoch"
        f" {best['epoch']}; {results['rows']['train']:,} training rows, seed {results['seed']}."
        f" Trained are {counts['trainable']:,} parameters and {counts['head']:,} of the head, of"
        f" {counts['base']:,}.",
        "",
        "| metric | validation | test |",
        "|---|--:|--:|",
    ]
    for name, value in results["test"].items():
        lines.append(f"| {name} | {number(results['validation'][name])} | {number(value)} |")
    return "\n".join(lines)


def _loading(trained: Trained, task: Task, name: str, *, merged: bool) -> str:
    tag = _TAGS.get(task.head, "feature-extraction")
    if merged:
        return (
            "```python\nfrom transformers import pipeline\n\n"
            f'model = pipeline("{tag}", "{name}")\n```'
        )
    source = _short(trained.job.recipe.backbone.source)
    plugins = " ".join(sorted({"peftcore-train", *_distributions(trained)}))
    labels = "".join(f", {key}={value!r}" for key, value in task.load_options().items())
    lines = [
        f"```sh\npip install {plugins}\nhf download {name} --local-dir adapter",
        f"peftcore predict adapter --input rows.jsonl --set backbone.source={source}\n```",
    ]
    if type(task).build is Task.build:
        lines += [
            "\n```python\nimport peftcore\nfrom huggingface_hub import snapshot_download\n",
            f'backbone = peftcore.backbone_for_source("{source}")',
            f'loaded = backbone.load("{source}", head="{task.head}"{labels})',
            f'adapter = peftcore.load(loaded.model, snapshot_download("{name}"))\n```',
        ]
    return "\n".join(lines)


def _distributions(trained: Trained) -> list[str]:
    names = [method["method"] for method in trained.job.recipe.methods]
    owners = [installed().owner("methods", name).distribution for name in names]
    return [*owners, installed().owner("tasks", trained.job.task_type).distribution]


def _environment(place: Path) -> str:
    path = place / rundir.ENVIRONMENT
    if not path.is_file():
        return ""
    found = rundir.read_json(path)
    versions = {"peftcore": found["peftcore"], **found["libraries"], "Python": found["python"]}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"## Environment\n\n{said}; on {found['device']}."
