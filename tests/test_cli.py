"""The command line: exit codes, what goes where, and what each command says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from peftcore import attach, cli
from peftcore.model.backbones import backbone_named
from peftcore.registry.installed import CORE
from peftcore.testing import run_cli

if TYPE_CHECKING:
    from conftest import Strangers

GOLDEN = Path(__file__).parent / "golden" / "cli.txt"
ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str | Path) -> Result:
    """Run the program in this process, where torch is imported already."""
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def planned(*arguments: str) -> dict[str, Any]:
    done = run("plan", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small BERT in ``base`` and a LoRA adapter of it in ``adapter``."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model: Any = backbone_named("bert").tiny()
    model.save_pretrained(folder / "base")
    made = attach(model, "lora", rank=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.save(folder / "adapter")
    made.merge()
    torch.save(model.state_dict(), folder / "merged.pt")
    return folder


# --- the program ------------------------------------------------------------------------


def test_help_and_version() -> None:
    for flag in ("-h", "--help"):
        done = run(flag)
        assert done.exit_code == 0
        for name in CORE["commands"]:
            assert f"\n  {name} " in done.stdout
            assert run(name, "-h").exit_code == 0
    assert run("--version").stdout == "peftcore 0.1.0\n"


def test_the_options_are_those_of_the_golden_list() -> None:
    context = click.Context(cli.main)
    lines = []
    for name in CORE["commands"]:
        command = cli.main.get_command(context, name)
        assert command is not None
        lines.append(name)
        for p in command.params:
            kind = "argument" if isinstance(p, click.Argument) else "option"
            choices = " | ".join(getattr(p.type, "choices", ()))
            needed = ", required" if p.required else ""
            lines.append(f"  {kind} {' '.join(p.opts)}: {choices or p.type.name}{needed}")
    found = "\n".join(lines) + "\n"
    assert found == GOLDEN.read_text("utf-8"), (
        "the command line changed. If that is meant, change tests/golden/cli.txt,"
        f" the changelog and the documentation too:\n{found}"
    )


def test_a_command_that_does_not_exist() -> None:
    done = run("lst")
    assert done.exit_code == 2
    assert "no command 'lst'. Did you mean list?" in done.stderr
    assert done.stdout == ""
    assert run("zzzz").exit_code == 2
    assert run("list", "--jsn").exit_code == 2


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "check"])
def test_a_command_of_a_plugin_that_is_not_there(name: str) -> None:
    done = run_cli(name, "x.yaml", env={"PEFTCORE_DISABLE_PLUGINS": "train"})
    assert done.returncode == 3
    assert f"the command {name!r} is part of peftcore-train: pip install peftcore-train" in (
        done.stderr
    )
    assert "installed, but disabled: named in PEFTCORE_DISABLE_PLUGINS" in done.stderr
    assert done.stdout == ""


COMMAND = """
import click
from peftcore import CommandSpec, errors, hookimpl

@hookimpl
def peftcore_register_commands():
    return CommandSpec("act", "Act.", "peftcore_act:command")

def command_body():
{body}

command = click.Command("act", callback=command_body)
"""


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("    raise KeyboardInterrupt", 130, "interrupted"),
        (
            "    import peftcore.errors as e; raise e.ConfigError(['a', 'b'])",
            2,
            "error: a\nerror: b",
        ),
        ("    import peftcore.errors as e; raise e.UnknownName('x')", 3, "error: x"),
        ("    import peftcore.errors as e; raise e.CheckpointError('x')", 1, "error: x"),
        ("    raise RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        ("    click.get_current_context().exit(7)", 7, ""),
    ],
)
def test_exit_codes(strangers: Strangers, body: str, code: int, message: str) -> None:
    strangers.add("act", COMMAND.format(body=body))
    done = strangers.alone("act")
    assert done.returncode == code
    assert message in done.stderr and done.stdout == ""
    assert ("Traceback" in done.stderr) is ("a bug" in message), "only bugs have a traceback"


def test_an_interrupt_from_outside_ends_with_130(strangers: Strangers) -> None:
    body = "    click.echo('ready')\n    import threading; threading.Event().wait()"
    strangers.add("act", COMMAND.format(body=body))
    # in the background of a shell interrupts are ignored, and a child inherits that
    interruptible = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from peftcore.cli import main; main(['act'])"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", interruptible], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **strangers.env},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors


def test_a_reader_that_stops_early_sees_no_traceback(strangers: Strangers) -> None:
    strangers.add("act", COMMAND.format(body="    for i in range(100000): click.echo(i)"))
    done = subprocess.run(
        [f"{sys.executable} -m peftcore act | head -1"], shell=True, capture_output=True,
        text=True, check=False, timeout=60, env={**os.environ, **strangers.env},
    )  # fmt: skip
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_there_is_no_colour_where_it_is_not_wanted() -> None:
    for arguments in (["list"], ["-h"], ["nothing"]):
        done = run_cli(*arguments, env={"NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "xterm"})
        assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pla"], "plan"),
        (["tra"], "train"),
        (["plan", "llama-7"], "llama-7b"),
        (["plan", "llama-7b", "-m", "lor"], "lora"),
        (["show", "lor"], "loreft"),
    ],
)
def test_the_shell_completes_from_metadata(words: list[str], expected: str) -> None:
    code = (
        "import sys; from peftcore.cli import main\n"
        "try: main(prog_name='peftcore')\n"
        "except SystemExit: print(sorted({'torch', 'pydantic'} & set(sys.modules)))"
    )
    environment = {
        "_PEFTCORE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["peftcore", *words]),
        "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip
    *found, heavy = done.stdout.splitlines()
    assert f"plain,{expected}" in found
    assert heavy == "[]"


# --- show -------------------------------------------------------------------------------


def test_show_gives_every_field_of_a_method() -> None:
    done = run("show", "lora")
    assert done.exit_code == 0
    assert "paper     Hu et al. 2022" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert row.split("  ")[0] == "rank" and " 8 " in row and "integer" in row
    assert "attention.query, attention.value" in done.stdout
    fields = {f["name"]: f for f in json.loads(run("show", "lora", "--json").stdout)["fields"]}
    assert fields["rank"]["default"] == 8
    assert fields["use_rslora"] == {
        "name": "use_rslora", "type": "boolean", "required": False, "default": False,
        "description": fields["use_rslora"]["description"],
    }  # fmt: skip
    assert all(f["description"] for f in fields.values())


def test_show_what_is_not_cut_when_it_is_piped() -> None:
    for text in (run("show", "lora").stdout, run("list").stdout):
        assert "..." not in text


def test_show_a_backbone_a_source_and_a_task() -> None:
    assert "attention.query" in run("show", "bert").stdout
    assert "bert-base-cased" in json.loads(run("show", "bert", "--json").stdout)["sizes"]
    assert "licence" in run("show", "samples/minilm").stdout
    assert run("show", "sequence-classification").exit_code == 0


def test_show_something_unknown() -> None:
    done = run("show", "lorra")
    assert done.exit_code == 3
    assert "no installed plugin provides 'lorra'. Did you mean lora?" in done.stderr
    assert "plan is a command; see peftcore plan --help" in run("show", "plan").stderr


# --- plan -------------------------------------------------------------------------------


def test_plan_counts_published_settings() -> None:
    loreft = planned("llama-7b", "-m", "loreft", "-s", "rank=8", "-s", "positions=f7+l7")
    assert loreft["trainable"] == 2_097_408
    targets = "targets=[attention.query,attention.key,attention.value,mlp.up,mlp.down]"
    lora = planned("llama-7b", "-m", "lora", "-s", "rank=32", "-s", targets)
    assert lora["trainable"] == 56_098_816
    assert lora["base"] == 6_738_415_616
    assert round(lora["percent"]["of_total"], 4) == 0.8256
    assert sum(line["trainable"] for line in lora["lines"]) == lora["trainable"]
    assert lora["bytes"] == {"base": 4 * lora["base"], "trained": 16 * lora["trainable"]}
    half = planned("llama-7b", "-m", "lora", "--dtype", "bfloat16")
    assert half["bytes"]["base"] == 2 * half["base"]
    shown = run("plan", "llama-7b", "-m", "lora", "--dtype", "bfloat16").stdout
    assert "memory: base 13.48 GB in bfloat16, " in shown


def test_plan_counts_the_head_apart() -> None:
    arguments = ["-m", "lora", "--head", "sequence-classification", "--num-labels", "2"]
    found = planned("bert-base-cased", *arguments, "--modules-to-save", "head")
    assert found["base"] == 108_311_810
    assert found["head"] == 768 * 2 + 2
    assert found["trainable"] == 294_912
    assert "head 1,538 besides" in (
        run("plan", "bert-base-cased", *arguments, "--modules-to-save", "head").stdout
    )


def test_plan_takes_the_head_of_a_task() -> None:
    pytest.importorskip("peftcore_protein")
    found = planned(
        "esm2-8m", "-m", "lora", "--head", "protein-symmetry", "--modules-to-save", "head"
    )
    # two layers on the pooled vector, 128 wide, and 18 classes
    assert found["head"] == (320 * 128 + 128) + (128 * 18 + 18)


def test_plan_of_two_methods_and_of_nested_settings() -> None:
    found = planned("bert-base-cased", "-m", "lora", "-m", "bitfit", "-s", "lora.rank=2")
    assert {line["method"] for line in found["lines"]} == {"lora", "bitfit"}
    nested = planned(
        "bert-base-cased", "-m", "lora", "-s", "targets.roles=[mlp.up]", "-s", "targets.layers=0;3"
    )
    assert [(line["role"], line["sites"]) for line in nested["lines"]] == [("mlp.up", 2)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("llama-7B -m lora", 2, "Did you mean llama-7b?"),
        ("llama-7b -m lra", 3, "unknown method 'lra'. Did you mean lora?"),
        ("llama-7b -m lora -s rnak=4", 2, "rnak is not a field of lora. Did you mean rank?"),
        ("llama-7b", 2, "name a method"),
        ("llama-7b -m lora -s rank", 2, "write KEY=VALUE"),
        ("llama-7b -m lora -s rank=[", 2, "not readable as YAML"),
        ("llama-7b -m lora -s rank=many", 2, "methods[0].rank"),
        ("llama-7b -m lora -s rank=0", 2, "methods[0].rank"),
        ("llama-7b -m lora -m bitfit -s rank=4", 2, "say of which method, such as lora.rank=4"),
        ("llama-7b -m lora -s rank=4 -s rank.default=4", 2, "rank is given as 4 already"),
        ("llama-7b -m lora -s targets=[nothing]", 2, "nothing"),
        ("bert-base-cased -m lora --head nothing", 2, "has no head 'nothing'"),
        ("bert-base-cased -m lora --num-labels 0", 2, "--num-labels"),
        ("bert-base-cased -m lora --modules-to-save nothing", 2, "'nothing' is no role"),
        ("/nowhere/at/all -m lora", 2, "/nowhere/at/all does not exist"),
        ("samples/nothing -m lora", 3, "samples/nothing"),
        ("samples/movie-sentiment -m lora", 2, "is data, not model"),
        ("llama-7b -m lora -s method=bitfit", 2, "name the method with --method"),
    ],
)
def test_plan_says_what_is_wrong(arguments: str, code: int, message: str) -> None:
    done = run("plan", *arguments.split())
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)


RECIPE = """
name: tiny
backbone: {source: bert-base-cased}
methods: [{method: lora, rank: 4}]
task: {type: sequence-classification, labels: [bad, good]}
data: {source: films}
"""


def test_plan_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    found = planned(str(file))
    assert (found["trainable"], found["head"], found["base"]) == (147_456, 1_538, 108_311_810)
    assert planned(str(file), "-s", "methods[0].rank=2")["trainable"] == 73_728
    assert planned(str(file), "-s", "task.labels=[a, b, c]")["head"] == 3 * 769
    file.write_text(RECIPE.replace("methods: ", "compare:\n  small: [lora]\n  big: "))
    assert planned(str(file))["arms"]["big"] == found
    assert run("plan", str(file)).stdout.startswith("small:\n")


def test_plan_of_a_recipe_reads_the_labels_where_it_does_not_name_them(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    data = tmp_path / "films"
    file.write_text(RECIPE.replace(", labels: [bad, good]", "").replace("films", str(data)))
    missing = run("plan", str(file))
    assert (
        missing.exit_code == 2 and f"data.source {data}: no such file or folder" in missing.stderr
    )
    data.mkdir()
    rows = "".join(f'{{"text": "a", "label": {label}}}\n' for label in range(5))
    (data / "train.jsonl").write_text(rows)
    assert planned(str(file))["head"] == 5 * 769


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--method", "lora"),
        ("--head", "masked-lm"),
        ("--num-labels", "3"),
        ("--modules-to-save", "pooler"),
        ("--dtype", "bfloat16"),
    ],
)
def test_plan_of_a_recipe_takes_no_option_that_the_recipe_answers(
    option: str, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    done = run("plan", str(file), option, value)
    assert done.exit_code == 2 and f"{file} says what {option} would" in done.stderr


def test_plan_of_a_wrong_recipe_names_every_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: tiny\nbackbone: {sorce: x}\nmethods:\n- {method: lora, rnak: 4}\n")
    done = run("plan", str(file))
    assert done.exit_code == 2
    assert f"{file}:4: methods[0].rnak is not a field of lora. Did you mean rank?" in done.stderr
    assert f"{file}:2: " in done.stderr
    assert f"{file}:1: task: field required." in done.stderr
    file.write_text(RECIPE.replace("lora", "lorra"))
    assert run("plan", str(file)).exit_code == 3
    unread = run("plan", str(file), "-s", "rank=2")
    assert unread.exit_code == 2 and "Write methods[0].rank=2." in unread.stderr
    missing = run("plan", str(tmp_path / "recipee.yaml"))
    assert missing.exit_code == 2 and "Did you mean recipe.yaml?" in missing.stderr


# --- inspect and merge ------------------------------------------------------------------


def test_inspect_a_whole_adapter(adapter: Path) -> None:
    done = run("inspect", adapter / "adapter", "--tensors")
    assert done.exit_code == 0
    for part in ("whole, 8 tensors", "lora (peftcore-lora 0.1.0)", "rank=2", "BertModel", "2x32"):
        assert part in done.stdout
    one = run("inspect", adapter / "adapter" / "adapter.safetensors", "--json")
    found = json.loads(one.stdout)
    assert found["methods"][0]["config"]["rank"] == 2
    assert found["tensors"]["encoder.layer.0.attention.self.query.lora.lora_A"] == [2, 32]


def test_inspect_what_is_no_whole_adapter(adapter: Path, tmp_path: Path) -> None:
    whole = (adapter / "adapter" / "adapter.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    (tmp_path / "changed.safetensors").write_bytes(whole[:-8] + b"\x01\x02\x03\x04\x05\x06\x07\x08")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    cases = {
        "cut.safetensors": "damaged or was not written whole",
        "changed.safetensors": "was changed after it was saved",
        "empty.safetensors": "damaged or was not written whole",
        "text.txt": "damaged or was not written whole",
        "peft": "directory of Hugging Face PEFT",
        "nothing": "does not exist",
    }
    for name, message in cases.items():
        done = run("inspect", tmp_path / name)
        assert (done.exit_code, done.stdout) == (1, ""), name
        assert message in done.stderr and name in done.stderr
    foreign = run("inspect", adapter / "base" / "model.safetensors")
    assert foreign.exit_code == 1 and "no peftcore adapter" in foreign.stderr


def test_merge_writes_a_model_in_the_base_s_own_format(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    done = run("merge", adapter / "adapter", out, "--source", adapter / "base")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"merged BertModel written to {out}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1
    merged = backbone_named("bert").load(str(out)).model.state_dict()
    expected = torch.load(adapter / "merged.pt", weights_only=True)
    changed = backbone_named("bert").load(str(adapter / "base")).model.state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], atol=0, rtol=0)
    assert any(not torch.equal(merged[name], changed[name]) for name in merged)


def test_merge_refuses_before_it_writes(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    other = tmp_path / "other"
    torch.manual_seed(9)
    model: Any = backbone_named("bert").tiny()
    model.save_pretrained(other)
    cases = [
        (adapter / "adapter", adapter / "base", tmp_path, 2, "not an empty folder"),
        (adapter / "adapter", adapter / "base", tmp_path / "file", 2, "not an empty folder"),
        (adapter / "adapter", "./nowhere", tmp_path / "x", 2, "nowhere"),
        (adapter / "base", adapter / "base", tmp_path / "x", 1, "does not exist"),
        (adapter / "adapter", other, tmp_path / "x", 1, "trained on another base"),
        (adapter / "adapter", None, tmp_path / "x", 2, "name them with --source"),
    ]
    before = sorted(tmp_path.iterdir())
    for saved, source, out, code, message in cases:
        done = run("merge", saved, out, *(["--source", source] if source else []))
        assert done.exit_code == code, done.output
        assert message in done.stderr
        assert sorted(tmp_path.iterdir()) == before
    allowed = run(
        "merge", adapter / "adapter", tmp_path / "x", "--source", other, "--allow-other-base"
    )
    assert allowed.exit_code == 0


# --- new --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("method", "my-tiny"), ("backbone", "wide_net"), ("task", "my-score"),
        ("source", "my_rows"), ("layer", "my-int8"), ("command", "largest"),
    ],
)  # fmt: skip
def test_a_new_plugin_passes_its_own_tests(
    strangers: Strangers, kind: str, name: str, tmp_path: Path
) -> None:
    done = run("new", kind, name, "--into", tmp_path)
    assert done.exit_code == 0, done.output
    folder = tmp_path / f"peftcore-{name}"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", strangers.folder, folder],
        check=True, timeout=100,
    )  # fmt: skip
    assert strangers.status(name) == ("ok", "")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", folder, folder / "tests"],
        capture_output=True, text=True, check=False, timeout=280, cwd=folder,
        env={**os.environ, **strangers.env},
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("method", "Tiny", "use lower-case letters"),
        ("method", "1st", "use lower-case letters"),
        ("method", "../tiny", "use lower-case letters"),
        ("method", "tiny-", "use lower-case letters"),
        ("method", "lora", "peftcore-lora already provides a method 'lora'"),
        ("backbone", "bert", "peftcore-text already provides a backbone 'bert'"),
        ("method", "train", "peftcore-train is installed already"),
        ("method", "probe", "a name of peftcore itself"),
        ("backbone", "structural", "a name of peftcore itself"),
    ],
)
def test_new_refuses_a_name(kind: str, name: str, message: str, tmp_path: Path) -> None:
    done = run("new", kind, name, "--into", tmp_path)
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_never_writes_over_anything(tmp_path: Path) -> None:
    (tmp_path / "peftcore-fresh").mkdir()
    done = run("new", "method", "fresh", "--into", tmp_path)
    assert done.exit_code == 2 and "exists; nothing was written" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("new", "method", "fresh", "--into", tmp_path / "file")
    assert done.exit_code == 2 and "cannot be written" in done.stderr


def test_the_example_is_what_new_writes(tmp_path: Path) -> None:
    run("new", "method", "tinylora", "--into", tmp_path)
    written, example = tmp_path / "peftcore-tinylora", ROOT / "examples" / "third_party_plugin"
    files = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert files
    for file in files:
        assert (example / file).read_text("utf-8") == (written / file).read_text("utf-8")
