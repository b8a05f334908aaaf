from pathlib import Path

import pytest
import transformers
from torch import nn

import peftcore
from peftcore import ConfigError, backbone_named, backbone_of, build_on_meta, installed, survey

ESM = backbone_named("esm")

# with the pooler, without a head; the fourth is that of the paper which the project reproduces
COUNTS = {
    "esm2-8m": 7_511_801,
    "esm2-35m": 33_500_401,
    "esm2-150m": 148_138_841,
    "esm2-650m": 651_040_661,
    "esm2-3b": 2_839_000_481,
    "esm2-15b": 15_129_089_921,
}

BLOCK = "encoder.layer.0"

TABLE = {
    "model": [""],
    "embeddings": ["embeddings.word_embeddings"],
    "block": [BLOCK],
    "attention": [f"{BLOCK}.attention"],
    "attention.query": [f"{BLOCK}.attention.self.query"],
    "attention.key": [f"{BLOCK}.attention.self.key"],
    "attention.value": [f"{BLOCK}.attention.self.value"],
    "attention.output": [f"{BLOCK}.attention.output.dense"],
    "mlp.up": [f"{BLOCK}.intermediate.dense"],
    "mlp.down": [f"{BLOCK}.output.dense"],
    "norm": [f"{BLOCK}.attention.LayerNorm", f"{BLOCK}.LayerNorm", "encoder.emb_layer_norm_after"],
    "pooler": ["pooler.dense"],
    "unused": ["contact_head.regression"],
}


def paths(model: nn.Module) -> dict[str, list[str]]:
    """Return role to paths, of the first block where a path lies in one."""
    found: dict[str, list[str]] = {}
    for site in survey(model, ESM).sites:
        if site.block in (None, 0):
            found.setdefault(site.role, []).append(site.path)
    return found


@pytest.mark.parametrize("size", COUNTS)
def test_a_named_size_has_its_number_of_parameters(size: str) -> None:
    model = build_on_meta(size)
    d, layers, heads = (
        ESM.configs[size][k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    blocks = layers * (12 * d * d + 13 * d)
    others = (
        33 * d + 2 * d + (d * d + d) + (layers * heads + 1)
    )  # embeddings, norm, pooler, contacts
    assert sum(p.numel() for p in model.parameters()) == blocks + others == COUNTS[size]


def test_the_spec_lists_the_sizes_of_its_backbone() -> None:
    assert installed().backbones["esm"].configs == tuple(ESM.configs) == tuple(COUNTS)


def test_every_role_names_exactly_these_modules() -> None:
    assert paths(ESM.tiny()) == TABLE


def test_a_language_model_head_holds_its_own_bias() -> None:
    assert paths(ESM.tiny(head="masked-lm"))["head"] == [
        "lm_head",
        "lm_head.dense",
        "lm_head.layer_norm",
        "lm_head.decoder",
    ]


def test_the_positions_of_esm_1b_are_no_tokens() -> None:
    config = transformers.EsmConfig(**{**ESM.small, "position_embedding_type": "absolute"})
    model = transformers.EsmModel(config)
    assert backbone_of(model).name == "esm"
    found = paths(model)
    assert found["embeddings"] == ["embeddings.word_embeddings"]
    assert found["embeddings.position"] == ["embeddings.position_embeddings"]


def test_no_method_acts_on_the_contact_head() -> None:
    model = ESM.tiny()
    adapter = peftcore.attach(model, "probe", targets=["all-linear", "pooler"])
    model(**ESM.batch(model)).pooler_output.sum().backward()
    adapter.check_alive()
    assert not any("contact" in item.site.path for item in adapter.placed)


def test_loading_tells_that_the_pooler_is_random(tmp_path: Path) -> None:
    ESM.tiny(head="masked-lm").save_pretrained(tmp_path)
    assert ESM.load(str(tmp_path)).fresh == ("pooler.dense.weight", "pooler.dense.bias")
    assert ESM.load(str(tmp_path), head="masked-lm").fresh == ()


def test_a_checkpoint_need_not_hold_the_contact_head(tmp_path: Path) -> None:
    model = ESM.tiny()
    state = {k: v for k, v in model.state_dict().items() if "contact_head" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    contacts = ("contact_head.regression.weight", "contact_head.regression.bias")
    assert ESM.load(str(tmp_path)).fresh == contacts


def test_a_bert_is_no_esm(tmp_path: Path) -> None:
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the backbone esm knows esm"):
        ESM.load(str(tmp_path))
