from collections.abc import Mapping

import pytest
from torch import nn

from peftcore import backbone_named, backbone_of, survey


def paths(family: str, head: str) -> Mapping[str, list[str]]:
    """Return role to paths, of the first block where a path lies in one."""
    backbone = backbone_named(family)
    found: dict[str, list[str]] = {}
    for site in survey(backbone.tiny(head=head), backbone).sites:
        if site.block in (None, 0):
            found.setdefault(site.role, []).append(site.path)
    return found


def bert_like(prefix: str, **changes: list[str]) -> dict[str, list[str]]:
    block = f"{prefix}.encoder.layer.0"
    table = {
        "model": [prefix],
        "embeddings": [f"{prefix}.embeddings.word_embeddings"],
        "embeddings.position": [f"{prefix}.embeddings.position_embeddings"],
        "x-token-type": [f"{prefix}.embeddings.token_type_embeddings"],
        "block": [block],
        "attention": [f"{block}.attention"],
        "attention.query": [f"{block}.attention.self.query"],
        "attention.key": [f"{block}.attention.self.key"],
        "attention.value": [f"{block}.attention.self.value"],
        "attention.output": [f"{block}.attention.output.dense"],
        "mlp.up": [f"{block}.intermediate.dense"],
        "mlp.down": [f"{block}.output.dense"],
        "norm": [
            f"{prefix}.embeddings.LayerNorm",
            f"{block}.attention.output.LayerNorm",
            f"{block}.output.LayerNorm",
        ],
    }
    return table | changes


DEBERTA = bert_like(
    "deberta",
    **{
        "embeddings.position": ["deberta.encoder.rel_embeddings"],
        "attention.query": ["deberta.encoder.layer.0.attention.self.query_proj"],
        "attention.key": ["deberta.encoder.layer.0.attention.self.key_proj"],
        "attention.value": ["deberta.encoder.layer.0.attention.self.value_proj"],
        "norm": [
            "deberta.embeddings.LayerNorm",
            "deberta.encoder.layer.0.attention.output.LayerNorm",
            "deberta.encoder.layer.0.output.LayerNorm",
            "deberta.encoder.LayerNorm",
        ],
    },
)
del DEBERTA["x-token-type"]

DISTIL = "distilbert.transformer.layer.0"

TABLES = {
    "bert": bert_like("bert", pooler=["bert.pooler.dense"], head=["classifier"]),
    "roberta": bert_like("roberta", head=["classifier.dense", "classifier.out_proj"]),
    "deberta": DEBERTA | {"pooler": ["pooler.dense"], "head": ["classifier"]},
    "electra": bert_like(
        "electra",
        **{
            "x-embeddings-project": ["electra.embeddings_project"],
            "head": ["classifier.dense", "classifier.out_proj"],
        },
    ),
    "distilbert": {
        "model": ["distilbert"],
        "embeddings": ["distilbert.embeddings.word_embeddings"],
        "embeddings.position": ["distilbert.embeddings.position_embeddings"],
        "block": [DISTIL],
        "attention": [f"{DISTIL}.attention"],
        "attention.query": [f"{DISTIL}.attention.q_lin"],
        "attention.key": [f"{DISTIL}.attention.k_lin"],
        "attention.value": [f"{DISTIL}.attention.v_lin"],
        "attention.output": [f"{DISTIL}.attention.out_lin"],
        "mlp": [f"{DISTIL}.ffn"],
        "mlp.up": [f"{DISTIL}.ffn.lin1"],
        "mlp.down": [f"{DISTIL}.ffn.lin2"],
        "norm": [
            "distilbert.embeddings.LayerNorm",
            f"{DISTIL}.sa_layer_norm",
            f"{DISTIL}.output_layer_norm",
        ],
        "head": ["pre_classifier", "classifier"],
    },
}


@pytest.mark.parametrize("family", TABLES)
def test_every_role_names_exactly_these_modules(family: str) -> None:
    assert paths(family, "sequence-classification") == TABLES[family]


def test_the_norm_of_a_language_model_head_belongs_to_the_head() -> None:
    assert paths("bert", "masked-lm")["head"] == [
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
    ]


def test_the_table_of_relative_positions_is_read_directly() -> None:
    backbone = backbone_named("deberta")
    sites = survey(backbone.tiny(), backbone).sites
    assert [s.path for s in sites if s.direct] == ["encoder.rel_embeddings"]


class Wrapper(nn.Module):
    """A task's own head around a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.encoder = network
        self.classifier = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("family", TABLES)
def test_in_a_wrapper_every_layer_outside_of_the_network_is_a_head(family: str) -> None:
    backbone = backbone_named(family)
    model = Wrapper(backbone.tiny())
    assert backbone_of(model).name == family and backbone.entry(model) == "encoder"
    found = {s.path: s.role for s in survey(model, backbone).sites}
    inner = {s.path: s.role for s in survey(model.encoder, backbone).sites}
    heads = {"classifier.0": "head", "classifier.2": "head"}
    assert found == {f"encoder.{path}".rstrip("."): role for path, role in inner.items()} | heads
    assert backbone.width(model, "", model) == 32


@pytest.mark.parametrize("kind", ["XLMRoberta", "Camembert"])
def test_kin_of_roberta_is_known_as_roberta(kind: str) -> None:
    import transformers

    backbone = backbone_named("roberta")
    config = getattr(transformers, f"{kind}Config")(**backbone.small)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    assert backbone_of(model).name == "roberta"
    found = {s.role for s in survey(model, backbone).sites}
    assert found == set(TABLES["roberta"])


@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in TABLES for a in ("eager", "sdpa") if (f, a) != ("deberta", "sdpa")],
)
def test_every_attention_implementation_calls_the_projections(family: str, attention: str) -> None:
    backbone = backbone_named(family)
    model = backbone.tiny()
    model.set_attn_implementation(attention)
    called: list[str] = []
    roles = ("attention.query", "attention.key", "attention.value", "attention.output")
    sites = [s for s in survey(model, backbone).sites if s.role in roles]
    for site in sites:
        site.module.register_forward_hook(lambda *_, path=site.path: called.append(path))
    model(**backbone.batch(model))
    assert set(called) == {site.path for site in sites}
