"""Runs on a hub: a small one on this machine that speaks the endpoints of huggingface.co."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants


class Hub(BaseHTTPRequestHandler):
    """Takes repositories and commits, and keeps the files of the last one."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        hub = self.server
        hub.asked.append(self.path)
        if self.headers["authorization"] != "Bearer token":
            return self.answer(401, {"error": "who are you?"})
        match self.path.split("/")[2:]:
            case ["repos", "create"]:
                hub.made = json.loads(body)
                return self.answer(200, {"url": f"{hub.url}/me/film"})
            case ["validate-yaml"]:
                hub.valid = "license: mit" in body
                return self.answer(200, {"errors": [], "warnings": []})
            case [*_, "preupload", "main"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self.answer(200, {"files": files})
            case [*_, "commit", "main"]:
                lines = map(json.loads, body.splitlines())
                hub.files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                done = {"commitUrl": f"{hub.url}/me/film/commit/0", "commitOid": "0" * 40}
                return self.answer(200, {"success": True, **done})
        return self.answer(404, {"error": "no such place"})

    def do_GET(self):
        self.answer(404, {"error": "nothing to read here"})

    def answer(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """Return a hub that huggingface_hub takes for its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.url, server.asked = f"http://127.0.0.1:{server.server_port}", []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()
        yield server
        server.shutdown()
    huggingface_hub.close_session()


@pytest.fixture
def licensed(bert):
    """Let the base say its licence."""
    readme = bert / "README.md"
    readme.write_text("---\nlicense: mit\n---\n# A small BERT\n")
    yield
    readme.unlink()


def test_an_adapter_is_pushed_with_a_card_of_its_run(hub, trained, licensed, peftcore, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "token")
    done = peftcore("push", trained, "me/film", "--private")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert done.stdout.splitlines()[-1] == f"{hub.url}/me/film"
    assert (hub.made["name"], hub.made["organization"]) == ("film", "me") and hub.valid
    assert hub.made.get("private") or hub.made.get("visibility") == "private"
    names = {"README.md", "adapter.json", "adapter.safetensors", "recipe.yaml", "results.json"}
    assert set(hub.files) == names
    for name in ("adapter.json", "adapter.safetensors"):
        assert hub.files[name] == (trained / "adapter" / name).read_bytes()
    card = ModelCard(hub.files["README.md"].decode())
    results = json.loads((trained / "results.json").read_text())
    assert (card.data.license, card.data.library_name) == ("mit", "peftcore")
    assert card.data.pipeline_tag == "text-classification" and "lora" in card.data.tags
    scores = {found.metric_type: found.metric_value for found in card.data.eval_results}
    assert scores == results["test"]
    assert f"| accuracy | {results['validation']['accuracy']:.4f} |" in card.text
    assert "peftcore predict adapter --input rows.jsonl" in card.text
    # folders of this machine are no business of the hub's
    assert str(trained.parent.parent) not in card.text + hub.files["recipe.yaml"].decode()


def test_a_merged_model_is_pushed_as_transformers_reads_it(trained, peftcore):
    done = peftcore("push", trained, "me/film", "--merged", "--dry-run", "--json")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found = json.loads(done.stdout)
    assert found["url"] == ""
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(
        found["files"]
    )
    assert 'pipeline("text-classification", "me/film")' in found["card"]
    assert "library_name: transformers" in found["card"]


def test_what_the_hub_does_not_take_is_one_sentence(hub, trained, peftcore, monkeypatch):
    cases = [
        ("a/b/c", "token", 2, "'a/b/c' is no name of a repository"),
        ("me/film", "", 2, "nobody is logged in to the hub here: run `hf auth login`"),
        ("me/film", "wrong", 1, "me/film is not sent, since the hub answered: Client error '401"),
    ]
    for name, token, code, sentence in cases:
        monkeypatch.setenv("HF_TOKEN", token)
        done = peftcore("push", trained, name, "-q")
        assert done.exit_code == code, f"{done.output}{done.exception!r}"
        (line,) = done.stderr.splitlines()
        assert sentence in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in peftcore("push", trained, "me/film", "-q").stderr
