"""``peftcore push``: a run as a repository of the Hugging Face hub."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from peftcore import ConfigError
from peftcore_train import recipes, rundir
from peftcore_train.card import local_folders, model_card, public_recipe
from peftcore_train.errors import HubError
from peftcore_train.merging import whole_model
from peftcore_train.progress import Progress
from peftcore_train.trained import Trained

#: What a repository of an adapter has of its run.
_FILES = ("adapter.safetensors", "adapter.json")


@dataclass(frozen=True)
class Pushed:
    """What was put on the hub, or would be.

    Attributes:
        url: address of the repository; empty where nothing was sent.
        files: names of its files, with their sizes in bytes.
        card: text of its card.
    """

    url: str
    files: dict[str, int]
    card: str


def push(
    trained: Trained,
    name: str,
    progress: Progress,
    *,
    merged: bool = False,
    private: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Put a run on the hub, with a card that is made from it.

    Args:
        trained: the run.
        name: of the repository, ``owner/name``; it is made where it does not exist.
        progress: where to say how it goes.
        merged: the whole model that transformers reads, in place of the adapter.
        private: make a repository that only its owner sees.
        dry_run: send nothing.

    Raises:
        ConfigError: the name is none, nobody is logged in, or the run cannot be merged.
        HubError: the hub refuses, or cannot be reached.
    """
    _check(name, dry_run)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        card = model_card(trained, name, merged=merged)
        if merged:
            _write_merged(trained, folder, progress)
        else:
            _write_adapter(trained, folder, progress)
        card.save(folder / "README.md")
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {str(path.relative_to(folder)): path.stat().st_size for path in found}
        url = "" if dry_run else _send(folder, name, private, progress)
        return Pushed(url, files, str(card))


def _check(name: str, dry_run: bool) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no name of a repository: {error}") from error
    if not dry_run and get_token() is None:
        raise ConfigError(
            "nobody is logged in to the hub here: run `hf auth login`, or set HF_TOKEN. --dry-run"
            " needs no account."
        )


def _write_adapter(trained: Trained, folder: Path, progress: Progress) -> None:
    for name in _FILES:
        shutil.copy(trained.adapter / name, folder)
    (folder / "recipe.yaml").write_text(recipes.dump(public_recipe(trained)), "utf-8")
    if (results := trained.place / rundir.RESULTS).is_file():
        shutil.copy(results, folder)
    for place in local_folders(trained):
        progress.say(f"note: adapter.json names {place}, a folder of this machine")


def _write_merged(trained: Trained, folder: Path, progress: Progress) -> None:
    loaded = whole_model(trained, progress)
    model: Any = loaded.model
    model.save_pretrained(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)


def _send(folder: Path, name: str, private: bool, progress: Progress) -> str:
    with progress.doing(f"sending to {name}"), _hub_errors(name):
        api = HfApi(library_name="peftcore-train")
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            commit_message="Upload with peftcore",
        )
        return str(url)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubError(f"{name} is not sent: HF_HUB_OFFLINE is set. Unset it.") from error
    except HTTPError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error))
        raise HubError(f"{name} is not sent, since the hub answered: {reason}") from error
