"""Models that no plugin knows: torch's own encoder with its fused projections and fast path."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import Around, Method, MethodSpec, Site, Structural, hookimpl, installed
from peftcore.errors import AttachError, TargetError
from peftcore.testing.matrix import perturb

PROJECTIONS = ["attention.query", "attention.value", "attention.output", "linear"]


def encoder() -> tuple[nn.TransformerEncoder, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 3).eval(), torch.randn(4, 7, 16)


def test_the_fallback_finds_blocks_and_slices_of_the_fused_projection() -> None:
    model, _ = encoder()
    plan = peftcore.plan(model, "probe", targets=["attention.qkv"])
    assert plan.backbone.name == "structural" and len(plan.placed) == 3
    assert plan.placed[0].site.name == "layers.0.self_attn[attention.qkv]"
    assert [p.site.block for p in plan.placed] == [0, 1, 2]


@pytest.mark.parametrize("role", PROJECTIONS)
def test_lora_trains_every_projection_and_both_paths_agree(role: str) -> None:
    pytest.importorskip("peftcore_lora")
    model, x = encoder()
    bare = model(x)
    adapter = peftcore.attach(model, "lora", rank=2, targets=[role])
    model.train()
    optimiser = torch.optim.Adam(adapter.parameters(), 1e-2)
    losses = []
    for layer in model.layers:
        layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    for _ in range(5):
        loss = model(x).pow(4).mean()
        optimiser.zero_grad()
        loss.backward()
        adapter.check_alive()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    slow = model(x)
    model.eval()
    with torch.no_grad():
        fast = model(x)  # torch's fused path, which reads the weights
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(fast, bare)
    adapter.merge()
    with torch.no_grad():
        torch.testing.assert_close(model(x), fast, atol=1e-5, rtol=1e-5)
    adapter.detach()
    torch.testing.assert_close(model(x), bare, atol=0, rtol=0)


def test_a_piece_that_would_be_dead_is_refused() -> None:
    pytest.importorskip("peftcore_bitfit")
    model, x = encoder()
    before = model(x)
    for layer in model.layers:
        layer.self_attn.out_proj.bias = None
    with pytest.raises(AttachError, match="the model reads the weight there and never calls"):
        peftcore.attach(model, "bitfit", add_missing=True)
    assert not peftcore.adapters(model)
    del before


class Halved(Around):
    """Half of what attention gives."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        out, weights = call(*args, **kwargs)
        return out * self.factor, weights


class HalvedMethod(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Halved | None:
        return Halved() if site.role == "attention" else None


def test_a_piece_around_torchs_attention_acts_in_evaluation_too() -> None:
    spec = MethodSpec("halved", "", "peftcore:MethodConfig", f"{__name__}:HalvedMethod")
    model, x = encoder()
    with installed().with_plugin(spec, "structural"), torch.no_grad():
        bare = model(x)
        adapter = peftcore.attach(model, "halved")
        tuned = model(x)
        with torch.enable_grad():  # on which torch's fast path is never taken
            wanted = model(x.requires_grad_())
        torch.testing.assert_close(tuned, wanted)
        assert not torch.allclose(tuned, bare)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), tuned)
        with peftcore.disabled(model):
            assert torch.equal(model(x), bare)
        adapter.detach()
        assert torch.equal(model(x), bare)


def test_rows_cannot_differ_where_a_weight_is_read() -> None:
    model, _ = encoder()
    perturb(peftcore.attach(model, "probe", targets=["attention.qkv"], name="a"))
    with (
        pytest.raises(AttachError, match="reads the weight of"),
        peftcore.route(model, ["a", None, "a", None]),
    ):
        pass


class Named(nn.Module):
    """Takes what the models of many families take."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        x = self.embeddings(input_ids)
        for block in self.blocks.children():
            x = block(x)
        return x


@pytest.mark.parametrize(
    "told",
    [
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1], [4, 5, 6, 7, 8]])},
        {"seq_idx": torch.tensor([[3, 3, 3, 5, 5], [1, 1, 1, 1, 1]])},
        {"cu_seqlens": torch.tensor([0, 3, 5, 10])},
        {"attention_mask": torch.block_diag(*map(torch.ones, [(3, 3), (2, 2)]))[None].bool()},
    ],
    ids=lambda told: next(iter(told)),
)
def test_several_sequences_in_a_row_are_found_by_the_usual_names(told: dict[str, Tensor]) -> None:
    context = Structural().context(Named(), (torch.ones(2, 5, dtype=torch.long),), told)
    assert context.packed and context.sequences is not None and context.mask is not None
    assert context.sequences[0].tolist() == [0, 0, 0, 1, 1] and bool(context.mask.all())


def test_positions_that_go_on_over_padding_are_of_one_sequence() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 1, 1]])
    for places in ((mask.cumsum(1) - 1).clamp_min(0), torch.arange(5)[None]):
        call = {"attention_mask": mask, "position_ids": places}
        assert not Structural().context(Named(), (mask,), call).packed


def test_without_a_plugin_padding_is_seen_where_the_call_tells_of_it() -> None:
    pytest.importorskip("peftcore_loreft")
    model, ids = Named().eval(), torch.ones(2, 4, dtype=torch.long)
    bare, mask = model(ids), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    adapter = peftcore.attach(model, "loreft", rank=1, positions="l1", targets=["block"])
    changed = (model(ids, attention_mask=mask) != bare).any(-1)
    assert changed.tolist() == [[False, False, False, True], [False, False, True, False]]
    adapter.detach()
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=False)
    torchs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with pytest.raises(AttachError, match="self_attn has batch_first=False"):
        peftcore.attach(torchs, "loreft", rank=1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_edit_of_nested_tensors_is_refused() -> None:
    pytest.importorskip("peftcore_loreft")
    model, x = encoder()
    peftcore.attach(model, "loreft", rank=2)
    padding = torch.arange(7) > torch.tensor([[6], [4], [6], [5]])
    with torch.no_grad(), pytest.raises(AttachError, match="set its use_nested_tensor to False"):
        model(x, src_key_padding_mask=padding)
    model.use_nested_tensor = False
    with torch.no_grad():
        assert model(x, src_key_padding_mask=padding).shape == x.shape


def test_a_cache_of_states_tells_what_was_generated() -> None:
    pytest.importorskip("peftcore_loreft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "state_size": 2, "num_hidden_layers": 1}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    perturb(peftcore.attach(model, "loreft", rank=2, positions="all"))
    ids, options = torch.tensor([[3, 4, 5]]), {"max_new_tokens": 3, "do_sample": False}
    cached = model.generate(ids, **options)
    assert torch.equal(cached, model.generate(ids, **options, use_cache=False))
    with peftcore.route(model, ["default", "default"]):
        both = model.generate(ids.expand(2, -1), **options, use_cache=False)
    assert torch.equal(both, cached.expand(2, -1))


def test_prompt_lengths_are_refused_where_nothing_tells_the_tokens() -> None:
    pytest.importorskip("peftcore_loreft")
    model = nn.Sequential(nn.Linear(4, 4))
    peftcore.attach(model, "loreft", rank=1, targets=["linear"])
    with (
        peftcore.prompt(model, torch.tensor([1, 2])),
        pytest.raises(AttachError, match="but nothing tells its tokens in this call"),
    ):
        model(torch.zeros(2, 3, 4))


def test_blocks_can_be_edited_without_a_plugin() -> None:
    pytest.importorskip("peftcore_loreft")
    model, x = encoder()
    bare = model(x)
    adapter = peftcore.attach(model, "loreft", rank=2, positions="all")
    assert adapter.plan.trainable == 3 * (2 * 2 * 16 + 2)
    assert not torch.allclose(model(x), bare)
    model(x).pow(2).mean().backward()
    adapter.check_alive()


def test_sides_of_an_unknown_model_are_stacks_by_the_names_of_their_modules() -> None:
    model = nn.Transformer(16, 2, 2, 3, 32, batch_first=True)

    def blocks(**targets: Any) -> list[str]:
        made = peftcore.plan(model, "probe", targets={"roles": ["path:**.linear1"], **targets})
        return [item.site.path for item in made.placed]

    assert len(blocks()) == 5
    assert blocks(stack="encoder") == [f"encoder.layers.{i}.linear1" for i in (0, 1)]
    assert blocks(stack="decoder", layers="last 1") == ["decoder.layers.2.linear1"]
    with pytest.raises(TargetError, match=r"no stack 'encode'\. Did you mean encoder\?"):
        blocks(stack="encode")


def test_a_plan_names_what_has_no_role() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(20))
            self.linear = nn.Linear(4, 4)

    model = nn.Sequential(Scaled(), nn.Sequential(Scaled(), Scaled()))
    plan = peftcore.plan(model, "probe", targets=["linear"])
    assert plan.survey.without_role == {"1.*.scale": 40, "0.scale": 20}
    assert plan.table().splitlines()[-1] == (
        "targets can reach 50.0 % of the base; no role: 1.*.scale (40), 0.scale (20)"
    )
    model[0].scale = nn.Parameter(torch.ones(40))
    note = peftcore.plan(model, "probe", targets=["linear"]).table().splitlines()[-1]
    assert note.startswith("note: Targets can reach 43 % of this model's parameters;")
