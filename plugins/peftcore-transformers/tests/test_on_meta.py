"""Reading a checkpoint without its weights says what reading it whole says."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from peftcore import ConfigError, Loaded
from peftcore_transformers.tensors import held_tensors


def said(loaded: Loaded) -> Any:
    """Return all that does not depend on values."""
    tensors = [(n, p.shape, p.dtype) for n, p in loaded.model.named_parameters()]
    rest = (type(loaded.model), loaded.model.training, type(loaded.tokenizer), loaded.source)
    return loaded.fresh, tensors, *rest


@pytest.mark.parametrize("options", [{}, {"num_labels": 7}, {"dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_both_ways_of_reading_say_the_same_of_every_head(family, options, request, save) -> None:
    knows = request.getfixturevalue(family)
    heads = ("none", *knows.heads)
    for stored in heads:
        folder = str(save(knows, stored, f"{family} {stored}"))
        for head in heads:
            on_meta = knows.load_on_meta(folder, head=head, **options)
            assert said(on_meta) == said(knows.load(folder, head=head, **options))
            held = (*on_meta.model.parameters(), *on_meta.model.buffers())
            assert {t.device.type for t in held} == {"meta"}


def test_every_layout_of_the_weights_is_understood(encoder, save, laid_out) -> None:
    folder = save(encoder, "masked-lm")
    laid_out(folder)
    for head in ("masked-lm", "sequence-classification"):
        on_meta = encoder.load_on_meta(str(folder), head=head)
        assert said(on_meta) == said(encoder.load(str(folder), head=head))


def test_tied_tensors_stay_tied_and_are_not_fresh(decoder, save) -> None:
    loaded = decoder.load_on_meta(str(save(decoder, "causal-lm")), head="causal-lm")
    assert loaded.fresh == ()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_what_the_task_needs_of_a_tokenizer_is_settled_as_in_a_whole_load(decoder, save) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = save(decoder, "causal-lm")
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    loaded = decoder.load_on_meta(str(folder), head="causal-lm")
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id


def test_no_weights_are_read(encoder, save, edit) -> None:
    """The table of embeddings has 128 GB, none of which is on the disk."""
    rows = 10**9
    folder = save(encoder)
    edit(folder, vocab_size=rows)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    size = int.from_bytes(kept[:8], "little")
    header = json.loads(kept[8 : 8 + size])
    table = header["embeddings.word_embeddings.weight"]
    end = max(entry["data_offsets"][1] for k, entry in header.items() if k != "__metadata__")
    # safetensors wants no hole between tensors: the table moves to the end, the others up
    start, stop = table["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= stop:
            entry["data_offsets"] = [offset - (stop - start) for offset in entry["data_offsets"]]
    begin = end - (stop - start)
    table.update(shape=[rows, 32], data_offsets=[begin, begin + rows * 32 * 4])
    text = json.dumps(header).encode()
    with weights.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + begin + rows * 32 * 4)
    loaded = encoder.load_on_meta(str(folder))
    assert loaded.model.embeddings.word_embeddings.weight.shape == (rows, 32)
    assert loaded.fresh == ()


# --- named sizes and names of the hub -----------------------------------------------------------


def test_a_named_size_is_taken_to_be_whole(encoder) -> None:
    loaded = encoder.load_on_meta("base", head="sequence-classification", num_labels=3)
    assert (loaded.fresh, loaded.tokenizer, loaded.source) == ((), None, "base")
    assert loaded.model.classifier.out_features == 3
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}
    with pytest.raises(ConfigError, match="has no head 'causal-lm'"):
        encoder.load_on_meta("base", head="causal-lm")


def test_a_folder_wins_over_a_size_of_its_name(encoder, save, monkeypatch) -> None:
    folder = save(encoder, "masked-lm", "base")
    monkeypatch.chdir(folder.parent)
    assert not encoder.is_size("base") and encoder.is_size("deep")
    assert encoder.load_on_meta("base").model.config.vocab_size == 96
    assert encoder.load("base").model.config.vocab_size == 96
    assert encoder.build("base").config.vocab_size == 96


def described(source: str | Path) -> Any:
    return {n: (t.shape, t.dtype, t.device) for n, t in held_tensors(str(source)).items()}


def test_a_name_in_the_cache_is_not_asked_for(
    encoder, save, laid_out, tmp_path, monkeypatch
) -> None:
    folder = save(encoder)
    laid_out(folder)
    home = tmp_path / "cache"
    place = home / "models--someone--small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert described("someone/small") == described(place / "snapshots" / "abc")


class Hub(SimpleHTTPRequestHandler):
    """Serves a folder as a hub does, and counts the bytes."""

    sent = 0

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = Path(self.directory) / self.path.partition("/resolve/main/")[2]
        if not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        wanted = self.headers.get("range", "")
        if wanted.startswith("bytes="):
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
        self.send_response(206 if wanted else 200)
        for name, value in (
            ("Content-Length", str(len(data))), ("ETag", f'"{path.name}"'),
            ("X-Repo-Commit", "0" * 40), ("Accept-Ranges", "bytes"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if body:
            type(self).sent += len(data)
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A hub on this machine with one repository, ``someone/small``: its address and its folder."""
    folder = tmp_path / "model"
    Hub.sent = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("laid_out", ["safetensors", "shards"], indirect=True)
def test_of_a_name_only_headers_are_fetched(hub, encoder, laid_out, tmp_path, monkeypatch) -> None:
    address, folder = hub
    model: Any = type(encoder)()._make({**encoder.small, "vocab_size": 20_000}, "none", {})
    model.save_pretrained(folder)
    laid_out(folder)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    assert described("someone/small") == described(folder)
    whole = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 0 < Hub.sent < whole / 5


def test_the_dtypes_of_a_checkpoint_are_its_own(encoder, tmp_path) -> None:
    encoder.tiny().to(torch.bfloat16).save_pretrained(tmp_path)
    assert {t.dtype for t in held_tensors(str(tmp_path)).values()} == {torch.bfloat16}
    assert encoder.load_on_meta(str(tmp_path)).model.dtype == torch.bfloat16
