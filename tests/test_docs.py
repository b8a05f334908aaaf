"""The documentation: what it shows runs, what it lists exists, where it points is there.

Blocks of Python are executed, lines of shell that begin with ``peftcore`` are run, and a block with
a file name is written to the folder in which they run. A block that is left out says why, in a
comment ``<!-- not run: REASON -->`` above it. ``<!-- output -->`` above a text compares its
lines with what the block before printed; a line of three dots stands for any lines.
"""

import contextlib
import io
import json
import random
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("plugins/*/README.md")])
RUN = sorted([*DOCS.glob("tutorial/*.md"), *DOCS.glob("how-to/*.md")])
EXAMPLE = ROOT / "examples" / "third_party_plugin"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run: .+?|output) -->\n)?(?P<fence>`{3,})(?P<lang>\w+)"
    r"(?: (?P<file>\S+))?\n(?P<code>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)

pytest.importorskip("peftcore_train")
pytestmark = pytest.mark.xdist_group("docs")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


# --- what is shown runs ------------------------------------------------------------------------


@dataclass
class Block:
    lang: str
    file: str | None
    mark: str
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text[: match.start("code")].count("\n")
        yield Block(match["lang"], match["file"], match["mark"] or "", match["code"], line)


GOOD, BAD = ["fine", "lovely", "great", "bright"], ["dull", "awful", "weak", "boring"]
PLAIN = ["the", "film", "was", "a", "story", "of", "two", "people", "and", "it"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the pages, each in a folder as save_pretrained writes it."""
    import torch
    from tokenizers import Tokenizer, models as kinds
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        BertConfig,
        BertModel,
        BertTokenizerFast,
        EsmConfig,
        EsmForMaskedLM,
        EsmTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    root = tmp_path_factory.mktemp("models")
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
    }
    words = [*GOOD, *BAD, *PLAIN]
    torch.manual_seed(0)
    bert = root / "my-bert"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(bert)
    (root / "words.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(root / "words.txt")).save_pretrained(bert)

    llama = root / "my-llama"
    vocabulary = ["<unk>", "<s>", "</s>", *words]
    config = LlamaConfig(vocab_size=len(vocabulary), bos_token_id=1, eos_token_id=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(llama)
    found = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(kinds.WordLevel(found, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(llama)

    t5 = root / "my-t5"
    vocabulary = ["<pad>", "</s>", "<unk>", *words]
    narrow = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, **narrow)
    T5ForConditionalGeneration(config).save_pretrained(t5)
    tokenizer = Tokenizer(
        kinds.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(t5)

    esm = root / "my-esm"
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<mask>"]
    config = EsmConfig(
        vocab_size=len(vocabulary),
        pad_token_id=1,
        mask_token_id=len(vocabulary) - 1,
        position_embedding_type="rotary",
        token_dropout=True,
        **sizes,
    )
    EsmForMaskedLM(config).save_pretrained(esm)
    (root / "residues.txt").write_text("\n".join(vocabulary))
    EsmTokenizer(str(root / "residues.txt")).save_pretrained(esm)
    return root


def reviews(rows: int, seed: int) -> str:
    chance, lines = random.Random(seed), []
    for _ in range(rows):
        label = chance.choice(["good", "bad"])
        words = chance.choices(PLAIN, k=6)
        words.insert(3, chance.choice(GOOD if label == "good" else BAD))
        lines.append(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return "".join(lines)


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models and the data that the pages name, which is the working one."""
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    data = tmp_path / "my-reviews"
    data.mkdir()
    for seed, (split, rows) in enumerate((("train", 64), ("validation", 24), ("test", 24))):
        (data / f"{split}.jsonl").write_text(reviews(rows, seed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def plugins_as_before() -> Iterator[None]:
    """What a page adds to the registry of this process is taken out again."""
    from peftcore.registry.installed import installed
    from peftcore.testing import register_kit

    register_kit()
    found = installed()
    tables = [*found._specs.values(), found._owners]
    copies, records = [dict(t) for t in tables], list(found.records)  # type: ignore[call-overload]
    yield
    found.records[:] = records
    for now, before in zip(tables, copies, strict=True):
        now.clear()  # type: ignore[attr-defined]
        now.update(before)  # type: ignore[attr-defined]


def run_python(block: Block, namespace: dict[str, Any], page: Path) -> str:
    printed = io.StringIO()
    code = compile("\n" * block.line + block.code, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(block: Block) -> str:
    from click.testing import CliRunner

    from peftcore.cli import main

    printed = ""
    for line in block.code.replace("\\\n", " ").splitlines():
        command, _, comment = line.partition("  # ")
        words = shlex.split(command)
        assert words[:1] == ["peftcore"], f"say why it is not run: {line}"
        expected = int(comment.removeprefix("exits with ") if "exits with" in comment else 0)
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == expected, f"{line}\n{result.output}\n{result.exception!r}"
        printed += result.output
    return printed


def check_output(block: Block, printed: str) -> None:
    rest = [" ".join(line.split()) for line in printed.splitlines()]
    for line in block.code.splitlines():
        wanted = " ".join(line.split())
        if wanted == "..." or not wanted:
            continue
        assert wanted in rest, f"line {block.line}: {line!r} was not printed in:\n{printed}"
        rest = rest[rest.index(wanted) + 1 :]


@pytest.mark.parametrize("page", RUN, ids=names(RUN))
def test_the_blocks_of_the_page_run(page: Path, folder: Path, plugins_as_before: None) -> None:
    import torch

    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "docs"}
    printed = ""
    for block in blocks(page):
        if block.mark.startswith("not run"):
            continue
        if block.mark == "output":
            check_output(block, printed)
        elif block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
        elif block.lang == "python":
            printed = run_python(block, namespace, page)
        elif block.lang == "sh":
            printed = run_shell(block)


def test_the_tutorial_shows_the_example_plugin_as_it_is(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from peftcore.cli import main

    shown = {b.file: b.code for b in blocks(DOCS / "tutorial" / "your-own-method.md") if b.file}
    files = [p for p in EXAMPLE.rglob("*") if p.suffix in (".py", ".toml", ".md")]
    example = {str(p.relative_to(EXAMPLE)): p.read_text("utf-8") for p in files}
    assert {name: shown[name] for name in example} == example
    made = CliRunner().invoke(main, ["new", "method", "tinylora", "--into", str(tmp_path)])
    assert made.exit_code == 0, made.output
    target = tmp_path / "peftcore-tinylora"
    scaffold = {
        str(p.relative_to(target)): p.read_text() for p in target.rglob("*.*") if p.is_file()
    }
    assert scaffold == example


def test_the_tutorial_shows_the_quickstart_as_it_is() -> None:
    shown = {b.file: b.code for b in blocks(DOCS / "tutorial" / "first-adapter.md")}
    example = (ROOT / "examples" / "quickstart.yaml").read_text("utf-8")
    assert shown["quickstart.yaml"] == example, "run: python tools/reference.py"


# --- what is listed exists ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest) -> Any:
    sys.path.insert(0, str(ROOT / "tools"))
    request.addfinalizer(lambda: sys.path.remove(str(ROOT / "tools")))
    import reference

    return reference


REFERENCE = sorted(DOCS.glob("reference/*.md"))


@pytest.mark.parametrize("page", REFERENCE, ids=names(REFERENCE))
def test_the_reference_is_what_the_code_says(page: Path, reference: Any) -> None:
    text = page.read_text("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert reference.written(text) == text, "run: python tools/reference.py (or --matrix)"


def test_every_generated_part_has_a_page(reference: Any) -> None:
    text = "".join(page.read_text("utf-8") for page in REFERENCE)
    assert set(reference.PARTS) == set(re.findall(r"<!-- generated: (\w+) -->", text))


def test_everything_public_has_a_docstring_or_a_description(reference: Any) -> None:
    for page in REFERENCE:
        lines = page.read_text("utf-8").splitlines()
        bare = [line for line in lines if re.search(r"\| *(None)? *\|$|^- `[^`]+`:? *$", line)]
        assert not bare, f"{page.name}: {bare[0]}"


def test_every_error_is_listed() -> None:
    page = (DOCS / "reference" / "errors-and-exit-codes.md").read_text("utf-8")
    for file in (*ROOT.glob("peftcore/**/*.py"), *ROOT.glob("plugins/*/peftcore_*/**/*.py")):
        for name, parent in re.findall(r"^class (\w+)\((\w+)\):", file.read_text("utf-8"), re.M):
            known = parent == "Exception" or f".{parent}`" in page
            assert not known or f".{name}`" in page, f"{file}: {name}"


# --- where it points is there ------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    text = _BLOCK.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    missing = [p for p in DOCS.rglob("*.md") if p.name != "README.md"]
    missing = [p for p in missing if f"({p.relative_to(DOCS)})" not in index]
    assert not missing, missing
