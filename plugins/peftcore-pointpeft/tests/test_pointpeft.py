"""Counts of the paper, the formula of the release and ours, the memory bank, and mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import peftcore
from peftcore import ConfigError, TargetError, backbone_named, build_on_meta
from peftcore.testing import perturb, run_in_process, tiny
from peftcore_pointpeft.bank import encoder_digest, feature_of, read_bank, write_bank

SMALL: dict[str, Any] = {"prompt_blocks": 1, "bottleneck": 4, "num_virtual_tokens": 3}


def network() -> tuple[nn.Module, Tensor]:
    _, model, batch = tiny("point-transformer", "point-classification")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model, torch.cat([batch["points"], torch.randn_like(batch["points"][:1])])


def bank_for(model: nn.Module, path: Path, count: int = 6, width: int | None = None) -> str:
    width = width or model.get_submodule("norm").normalized_shape[0]
    write_bank(path, [torch.randn(count, width)], encoder_digest(model), "test")
    return str(path)


# --- counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "head"), [(15, 267_535), (40, 273_960)])
def test_point_mae_has_the_trainable_parameters_of_the_release(classes, head, tmp_path):
    model = build_on_meta("point-mae", head="point-classification", num_labels=classes)
    write_bank(tmp_path / "b.safetensors", [torch.randn(9, 384)], "", "test")
    bank = str(tmp_path / "b.safetensors")
    choice = {"method": "pointpeft", "bank": bank, "released": True}
    plan = peftcore.plan(model, [choice], modules_to_save=["head"])
    assert (plan.trainable, plan.head) == (505_482, head)
    if classes == 15:
        assert plan.trainable + plan.head == 773_017
        assert plan.base + plan.trainable == 22_093_327 + 505_482
        whole = plan.base + plan.trainable - 36_864 - 768 - 768  # biases, norm and token are there
        assert whole == 22_560_409
    # six blocks without prompts, their adapters of the bank, and the gates are never read
    read = 505_482 - 6 * 10 * 384 - 6 * 6_536 - 12
    plan = peftcore.plan(model, [{"method": "pointpeft", "bank": bank}], modules_to_save=["head"])
    assert plan.trainable == read == 443_214
    without = peftcore.plan(model, "pointpeft", modules_to_save=["head"]).trainable
    assert without == read - 6 * 6_536


# --- formula --------------------------------------------------------------------------------
#
# Written from the paper (sections 3.2 to 3.4) and from reading the release, row by row.


def adapter(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    inner = x @ w[f"{name}.down.weight"].T + w[f"{name}.down.bias"]
    inner = inner / (1 + torch.exp(-1.702 * inner))
    return inner @ w[f"{name}.up.weight"].T + w[f"{name}.up.bias"]


def farthest(points: Tensor, count: int) -> Tensor:
    chosen = [0]
    while len(chosen) < count:
        apart = ((points[:, None] - points[chosen]) ** 2).sum(-1).amin(1)
        chosen.append(int(apart.argmax()))
    return torch.tensor(chosen)


def near(points: Tensor, centres: Tensor, count: int) -> Tensor:
    return ((centres[:, None] - points) ** 2).sum(-1).sort(-1).indices[:, :count]


def attended(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    apart = x - x.mean(-1, keepdim=True)
    unit = apart / (apart.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    unit = unit * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    q, k, v = (unit @ w[f"{name}.qkv.weight"].T).split(18, -1)
    heads = []
    for h in range(6):
        part = slice(3 * h, 3 * h + 3)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / 18**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(heads, -1) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def given_back(flat: Tensor, index: Tensor, centre: Tensor, w: dict, name: str) -> Tensor:
    """Return what each neighbourhood holds, [S, d]; indices are of flat rows."""
    inside = flat[index]
    inside = inside + attended(inside, w, "blocks.blocks.0.pointpeft.nearby")
    pooled = inside.amax(1)
    mean, variance = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    pooled = (pooled - mean) / (variance + 1e-5).sqrt()
    pooled = pooled * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    return pooled * 0.5 * (1 + torch.erf(pooled / 2**0.5)) + 0.3 * flat[centre]


def reference(model: nn.Module, points: Tensor, w: dict[str, Tensor], known: Tensor | None,
              released: bool) -> Tensor:  # fmt: skip
    """Return the logits of the tuned network; the bare modules of the base are called as such."""
    config = model.config
    count, size, width = config.groups[0], config.group_sizes[0], config.widths[0]
    centres = [cloud[farthest(cloud, count)] for cloud in points]
    groups = torch.stack(
        [c[near(c, m, size)] - m[:, None] for c, m in zip(points, centres, strict=True)]
    )
    tokens = model.reduce_dim(model.encoder(groups))
    x = torch.cat([model.cls_token.expand(len(points), -1, -1), tokens], 1)
    where = model.pos_embed(torch.stack(centres))
    where = torch.cat([model.cls_pos.expand(len(points), -1, -1), where], 1)
    own = w["encoder.pointpeft.coordinates"]
    for number, block in enumerate(model.blocks.blocks):
        x, name, front = x + where, f"blocks.blocks.{number}.pointpeft", 0
        if number == 0:
            prompts = w[f"{name}.prompted.embeddings"].expand(len(points), -1, -1)
            if known is not None:
                prompts = prompts + known + adapter(known, w, f"{name}.prompted.bank")
            x, front = torch.cat([x[:, :1], prompts, x[:, 1:]], 1), len(own)
        x = x + block.attn(block.norm1(x))
        part = block.mlp(block.norm2(x))
        x = 0.7 * adapter(part, w, f"blocks.blocks.{number}.mlp.pointpeft.adapter") + part + x
        flat = x[:, 1:].reshape(-1, width)
        out = []
        for row, cloud in enumerate(points):
            middle = centres[row]
            if front and released:
                prompted = torch.cat([own, cloud])
                places = prompted[farthest(prompted, count)]
                first, stride, to = farthest(places, count // 2), count, places
            else:
                places = torch.cat([own, middle]) if front else middle
                first, stride, to = farthest(places, count // 2), len(places), middle
            index = near(places, places[first], size // 2) + row * stride
            held = given_back(flat, index, first + row * stride, w, name)
            weight = 1 / (((to[:, None] - places[first]) ** 2).sum(-1) + 1e-8)
            share = weight / weight.sum(1, keepdim=True)
            out.append(x[row, 1 + front :] + 0.3 * share @ held)
        x = torch.cat([x[:, : 1 + front], torch.stack(out)], 1)
        x = x + adapter(x, w, f"{name}.outer")
        x = torch.cat([x[:, :1], x[:, 1 + front :]], 1)
    x = model.norm(x)
    return model.cls_head_finetune(torch.cat([x[:, 0], x[:, 1:].amax(1)], -1))


@torch.no_grad()
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("banked", [False, True])
def test_it_is_the_papers_formula(released, banked, tmp_path):
    torch.manual_seed(1)
    model, points = network()
    config: dict[str, Any] = {**SMALL, "released": released, "num_virtual_tokens": 4}
    known = None
    if banked:
        config["bank"] = bank_for(model, tmp_path / "bank.safetensors")
        bank, _ = read_bank(config["bank"])
        asked = model.pooled_tokens(points)
        cosines = asked @ bank.T / asked.norm(dim=1, keepdim=True)
        best, index = cosines.sort(1, descending=True)
        found = bank[index[:, :2]]
        mixed = (best[:, :2].softmax(1)[..., None] * found).sum(1, keepdim=True)
        known = torch.cat([asked[:, None], mixed, found], 1)
    made = peftcore.attach(model, "pointpeft", **config)
    perturb(made)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and module.num_features == 32:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    tuned = model(points)
    made.save(tmp_path / "adapter")
    w = load_file(tmp_path / "adapter" / "adapter.safetensors")
    made.detach()
    for name, value in w.items():  # what the base holds itself
        module, _, leaf = name.rpartition(".pointpeft.")
        place = f"{module}.{leaf}" if module else leaf.removeprefix("pointpeft.")
        if place in dict(model.named_parameters()):
            model.get_parameter(place).copy_(value)
    expected = reference(model, points, w, known, released)
    torch.testing.assert_close(tuned, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tuned, tuned.roll(1, 0), atol=1e-3)


@torch.no_grad()
def test_rows_do_not_change_each_other_but_as_released():
    for released in (False, True):
        torch.manual_seed(1)
        model, points = network()
        made = peftcore.attach(model, "pointpeft", **{**SMALL, "released": released})
        perturb(made)
        together, alone = model(points), model(points[1:2])
        assert torch.allclose(together[1:2], alone, atol=1e-5) is not released


# --- the memory bank ------------------------------------------------------------------------


def test_the_bank_is_asked_with_the_base_alone_and_kept_with_the_adapter(tmp_path):
    model, points = network()
    asked = feature_of(model, points)
    path = bank_for(model, tmp_path / "bank.safetensors")
    made = peftcore.attach(model, "pointpeft", bank=path, **SMALL)
    perturb(made)
    memory = next(i.piece.memory for i in made.placed if hasattr(i.piece, "memory"))
    model.train()
    again = memory(points)
    assert torch.equal(again[:, 0], asked) and model.encoder.first_conv[1].training
    torch.testing.assert_close(again[:, 2:].norm(dim=-1), torch.ones(3, 1))
    model.eval()
    tuned = model(points)
    made.save(tmp_path / "adapter")
    made.detach()
    Path(path).unlink()
    peftcore.load(model, tmp_path / "adapter")
    assert torch.equal(model(points), tuned)


def test_a_bank_that_does_not_belong_is_refused_and_nothing_is_changed(tmp_path):
    model, _ = network()
    good = bank_for(model, tmp_path / "good.safetensors")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wide = bank_for(model, tmp_path / "wide.safetensors", width=9)
    few = bank_for(model, tmp_path / "few.safetensors", count=2)
    changed = tmp_path / "changed.safetensors"
    data = bytearray(Path(good).read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    (tmp_path / "none.safetensors").write_text("no bank")
    for bank, sentence in (
        (wide, "features of width 9, the network's is 32"),
        (few, "holds 2 clouds, fewer than num_virtual_tokens - 2: 8"),
        (str(changed), "its digest is that of other features"),
        (str(tmp_path / "none.safetensors"), "is no memory bank"),
        (str(tmp_path / "nowhere"), "no such file. Make it with: peftcore point-bank"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            peftcore.attach(model, "pointpeft", bank=bank, prompt_blocks=1)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.norm.bias += 1
    with pytest.raises(ConfigError, match="made by an encoder with other weights"):
        peftcore.attach(model, "pointpeft", bank=good, **SMALL)


def recipe_of(folder: Path, **method: Any) -> Path:
    model, _ = network()
    model.save_pretrained(folder / "network")
    (folder / "data").mkdir()
    for split, count in (("train", 6), ("validation", 4), ("test", 4)):
        rows = [{"cloud": f"{split}{i}.npy", "label": i % 2} for i in range(count)]
        for row in rows:
            shape = (1, 1, 1) if row["label"] else (0.1, 0.1, 1)
            cloud = np.random.default_rng(0).normal(size=(24, 3)) * shape
            np.save(folder / "data" / row["cloud"], cloud + 0.01 * len(row["cloud"]))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{split}.jsonl").write_text(lines)
    content = {
        "name": "clouds",
        "seed": 0,
        "backbone": {"source": str(folder / "network")},
        "methods": [{"method": "pointpeft", **SMALL, **method}],
        "task": {"type": "point-classification", "points": 16},
        "data": {"source": str(folder / "data"), "accept": ["leak", "conflict"]},
        "train": {"batch_size": 3, "max_steps": 2, "device": "cpu"},
        "output": str(folder / "runs"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def test_a_command_makes_the_bank_that_a_recipe_trains_with(tmp_path):
    bank = tmp_path / "bank.safetensors"
    recipe = recipe_of(tmp_path, bank=str(bank))
    refused = run_in_process("train", recipe, "-q")
    assert refused.exit_code == 2 and "peftcore point-bank RECIPE" in refused.stderr
    done = run_in_process("point-bank", recipe, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["clouds"] == 6 and len(found["sha256"]) == 64
    first = bank.read_bytes()
    assert run_in_process("point-bank", recipe, "-q").exit_code == 0 and bank.read_bytes() == first
    features, encoder = read_bank(str(bank))
    loaded = backbone_named("point-transformer").load(str(tmp_path / "network"))
    assert encoder == encoder_digest(loaded.model)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    done = run_in_process("train", recipe, "-q", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reloaded_equal"] is True
    for arguments, sentence in (
        (["--set", "methods[0].bank=null"], "names no bank; say where with --output"),
        (["--output", str(tmp_path / "no" / "where")], "its folder does not exist"),
    ):
        done = run_in_process("point-bank", recipe, *arguments)
        assert done.exit_code == 2 and sentence in done.stderr


def test_prompts_of_more_blocks_than_there_are_are_refused():
    model, _ = network()
    with pytest.raises(TargetError, match="prompt_blocks: 6, and the network has 2 blocks"):
        peftcore.attach(model, "pointpeft")
    for wrong, sentence in (
        ({"num_virtual_tokens": 2}, "at least 3"),
        ({"attention_heads": 5}, "no multiple"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            peftcore.plan(model, [{"method": "pointpeft", **wrong}])
