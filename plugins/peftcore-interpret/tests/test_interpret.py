"""A model that was tuned to find a motif: what it looks at, and what its adapter changed."""

import json
import shutil

import numpy as np
import pytest
import torch

import peftcore
from peftcore.testing import CommandContract, run_in_process
from peftcore_interpret import gradients, mutagenesis, rollout
from peftcore_interpret.opened import logits_of, opened, subject
from peftcore_interpret.switching import base_under_head, blocks_of, off_in

MOTIF = "WCW"


class TestCommand(CommandContract):
    command = "interpret"


@pytest.fixture(scope="module")
def seen(tuned, tmp_path_factory):
    """Look at three rows with the motif, once for all tests."""
    output = tmp_path_factory.mktemp("seen") / "pictures"
    return peftcore.interpret(tuned, numbers=(1, 3, 5), output=output, quiet=True)


def test_gradients_add_up_to_the_change_of_the_output_and_point_to_the_motif(seen):
    hits = 0
    for told in seen.found["rows"]:
        found = told["gradients"]
        for name in ("tuned", "base"):
            assert found[name]["error"] < 1e-3
            assert sum(found[name]["tokens"]) == pytest.approx(found[name]["change"], abs=1e-3)
        tuned, base, both = (found[n]["tokens"] for n in ("tuned", "base", "difference"))
        assert both == pytest.approx([t - b for t, b in zip(tuned, base, strict=True)])
        assert told["explained"] == "binds"
        order = np.argsort(-np.array(found["difference"]["tokens"]))[:3]
        hits += sum(told["tokens"][i] in MOTIF for i in order)
    assert hits >= 7, "of three rows with three residues each"


def test_the_sum_is_checked_against_outputs_that_captum_had_no_part_in(tuned):
    run = opened(tuned)
    one = subject(run, run.task.read(run.job.recipe.data, "test")[0], "not", None)
    found = gradients.integrated_gradients(run, one)
    nothing = {**one.inputs, "input_ids": gradients.baseline(run, one)}
    assert nothing["input_ids"][0, [0, -1]].tolist() == one.inputs["input_ids"][0, [0, -1]].tolist()
    with torch.no_grad():
        change = [logits_of(run.model, inputs)[0, 1].item() for inputs in (one.inputs, nothing)]
    assert sum(found["tuned"]["tokens"]) == pytest.approx(change[0] - change[1], abs=1e-3)


def test_mutants_change_the_output_as_predicting_them_does(tuned, seen):
    told = seen.found["rows"][0]
    found = told["mutagenesis"]
    change = np.array(found["change"])
    assert change.shape == (20, 12)
    there = [found["residues"].index(residue) for residue in found["sequence"]]
    assert not change[there, range(12)].any(), "what is there changes nothing"
    place = found["sequence"].index(MOTIF)
    worst = set(np.argsort(change.mean(0))[:3])
    assert len(worst & {place, place + 1, place + 2}) >= 2
    mutant = "A" + found["sequence"][1:]
    run = opened(tuned)
    row = run.task.read(run.job.recipe.data, "test")[0]
    inputs = run.inputs([run.encode(type(row)({"text": mutant}, "here"))])
    with torch.no_grad():
        after = logits_of(run.model, inputs)[0].tolist()
    assert change[0, 0] == pytest.approx(after[0] - told["logits"][0], abs=1e-5)


def test_rollout_is_the_product_of_all_layers_and_each_token_shares_in_one():
    layers = torch.rand(3, 5, 5, dtype=torch.float64).softmax(-1)
    expected = np.eye(5)
    for layer in layers.numpy():
        expected = (0.5 * layer + 0.5 * np.eye(5)) @ expected
    found = rollout.together(list(layers))
    assert np.allclose(found.numpy(), expected) and np.allclose(found.sum(-1), 1)


def test_maps_of_attention_come_from_a_model_that_was_loaded_with_fused_kernels(tuned, seen):
    run = opened(tuned)
    assert run.model.config._attn_implementation == "sdpa"
    told = seen.found["rows"][0]["rollout"]
    assert told["read_at"] == 0 and sum(told["tuned"]["tokens"]) == pytest.approx(1)
    assert told["tuned"]["tokens"] != told["base"]["tokens"]


def test_ablation_scores_what_is_left_of_the_adapter(tuned, seen):
    found = seen.found["ablation"]
    results = json.loads((tuned / "results.json").read_text())
    assert found["tuned"]["loss"] == pytest.approx(results["test"]["loss"], abs=1e-6)
    assert len(found["blocks"]) == 2 and found["base"]["loss"] > found["tuned"]["loss"]
    assert len({one["loss"] for one in found["blocks"].values()}) == 2


def test_an_adapter_of_zeros_has_no_effect_anywhere_and_no_rank(recipe, tmp_path):
    job = recipe(output=str(tmp_path))
    # a step of so little leaves nothing in single precision
    job["train"] = {"max_steps": 1, "batch_size": 8, "learning_rate": 1e-30, "device": "cpu"}
    found = peftcore.interpret(
        peftcore.train(job, quiet=True).folder, what=("ablation", "spectrum"), quiet=True
    ).found
    for scores in (*found["ablation"]["blocks"].values(), found["ablation"]["base"]):
        assert scores == found["ablation"]["tuned"]
    assert found["spectrum"]["weights"] == {}


def test_off_in_every_block_is_the_base_and_afterwards_all_is_as_before(tuned):
    run = opened(tuned)
    inputs = subject(run, run.task.read(run.job.recipe.data, "test")[0], None, None).inputs
    with torch.no_grad():
        before = logits_of(run.model, inputs)
        with off_in(run.model, blocks_of(run.model).values()):
            off = logits_of(run.model, inputs)
        with base_under_head(run.model, run.adapter):
            under = logits_of(run.model, inputs)
        head = run.model.classifier
        with peftcore.disabled(run.model):
            hidden = run.model.bert(**inputs).pooler_output
        assert torch.allclose(under, head(hidden), atol=1e-6)
        assert torch.equal(logits_of(run.model, inputs), before) and not torch.equal(off, before)
        with pytest.raises(RuntimeError), off_in(run.model, blocks_of(run.model).values()):
            logits_of(run.model, {"inputs_embeds": torch.zeros(1, 3, 7)})
        assert torch.equal(logits_of(run.model, inputs), before), "nothing is left switched off"


def test_the_spectrum_is_that_of_the_product_of_the_factors(tuned, seen):
    weights = seen.found["spectrum"]["weights"]
    run = opened(tuned)
    placed = {item.site.path: item.piece for item in run.adapter.placed}
    assert len(weights) == 13 and weights.keys() == {f"{path}.weight" for path in placed}
    for name, one in weights.items():
        delta = placed[name.removesuffix(".weight")].weight_delta().detach()
        expected = torch.linalg.svdvals(delta.double())[: one["rank"]]
        assert 1 <= one["rank"] <= 4
        assert one["singular_values"] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
        assert 1 <= one["effective_rank"] <= one["rank"] + 1e-6


def test_the_command_writes_numbers_and_pictures_and_prints_tables(tuned, seen, tmp_path):
    assert [file.name for file in seen.files] == ["interpret.json", *seen.pictures]
    assert all(file.stat().st_size > 1000 for file in seen.files) and not seen.left_out
    assert "mutant" in repr(seen) and seen._repr_html_().count("<img") == len(seen.pictures)
    rows = tmp_path / "mine.csv"
    rows.write_text("text,label\nAAAAWCWAAAAA,binds\n")
    done = run_in_process(
        "interpret", tuned, "--rows", rows, "--what", "mutagenesis", "--output", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "mutant" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "interpret.json", "mutagenesis-1.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--row", "99"], "--row 99: there are 24 rows, counted from 1."),
        (
            ["--what", "gradients", "--label", "bind"],
            "the labels are binds, not. Did you mean binds?",
        ),
        (["--what", "rollout", "--at", "3"], "has one answer; leave it out."),
        (["--output", "no/such/folder"], "name a folder, in one that is there, for the output."),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(tuned, options, sentence):
    done = run_in_process("interpret", tuned, "-q", "--what", "spectrum", *options)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr


def test_a_model_without_maps_of_attention_is_refused_with_the_remedy(tuned, monkeypatch):
    run = opened(tuned)
    one = subject(run, run.task.read(run.job.recipe.data, "test")[0], None, None)
    # a family that cannot change its kernels
    monkeypatch.setattr(type(run.model), "set_attn_implementation", lambda *a: None)
    with pytest.raises(peftcore.ConfigError, match=r"backbone\.options\.attn_implementation=eager"):
        rollout.rollout(run, one)


def test_words_are_no_residues_and_an_update_of_no_weight_has_no_spectrum(recipe, tmp_path):
    job = recipe(methods=["bitfit"], output=str(tmp_path))
    job["train"] = {"max_steps": 1, "batch_size": 8, "device": "cpu"}
    folder = peftcore.train(job, quiet=True).folder
    found = peftcore.interpret(folder, quiet=True)
    assert set(found.left_out) == {"spectrum"} and "acts on no weight" in found.left_out["spectrum"]
    rows = tmp_path / "words.csv"
    rows.write_text("text,label\nB or not,binds\n")
    done = run_in_process("interpret", folder, "--rows", rows, "--what", "mutagenesis", "-q")
    assert done.exit_code == 2 and "no one sequence of the twenty" in done.stderr, done.stderr
    shutil.rmtree(folder)


def test_a_word_is_explained_where_each_has_a_label(recipe, tmp_path):
    (tmp_path / "data").mkdir()
    for split, row in (("train", "AWCWDE"), ("validation", "DWCWAE"), ("test", "ADEWCWGHIKLM")):
        labels = "".join("m" if letter in MOTIF else "o" for letter in row)
        text = json.dumps({"tokens": row, "labels": labels})
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    job = recipe(output=str(tmp_path), data={"source": str(tmp_path / "data")})
    job["task"] = {"type": "token-classification", "unit": "residue"}
    job["train"] = {"max_steps": 1, "batch_size": 8, "device": "cpu"}
    folder = peftcore.train(job, quiet=True).folder
    found = peftcore.interpret(folder, what=("gradients", "mutagenesis"), at=2, quiet=True).found
    (told,) = found["rows"]
    assert told["gradients"]["tuned"]["error"] < 1e-3 and len(told["logits"]) == 2
    assert np.array(told["mutagenesis"]["change"]).shape == (20, 12)
    left_out = peftcore.interpret(folder, quiet=True).left_out
    assert "say which one is explained with --at" in left_out["gradients"].replace("\n", " ")
    assert mutagenesis.STANDARD[0] == "A"
