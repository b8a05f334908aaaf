import pytest

from peftcore import ConfigError, backbone_named, build_on_meta, installed

FAMILIES = ("bert", "roberta", "deberta", "distilbert", "electra", "t5", "bart")

# two labels; the first four are those of the papers that the project reproduces
COUNTS = {
    "bert-base-cased": 108_311_810,
    "bert-large-cased": 333_581_314,
    "roberta-base": 124_647_170,
    "roberta-large": 355_361_794,
    "bert-base-uncased": 109_483_778,
    "bert-large-uncased": 335_143_938,
    "xlm-roberta-base": 278_045_186,
    "deberta-v3-small": 141_896_450,
    "deberta-v3-base": 184_423_682,
    "deberta-v3-large": 435_063_810,
    "distilbert-base-uncased": 66_955_010,
    "electra-small": 13_549_314,
    "electra-base": 109_483_778,
    "electra-large": 335_143_938,
}


# of models that write text
SEQ2SEQ = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
}


@pytest.mark.parametrize("size", SEQ2SEQ)
def test_a_model_that_writes_has_its_published_number_of_parameters(size: str) -> None:
    model = build_on_meta(size, head="seq2seq-lm")
    assert sum(p.numel() for p in model.parameters()) == SEQ2SEQ[size]


@pytest.mark.parametrize("size", COUNTS)
def test_a_named_size_has_its_published_number_of_parameters(size: str) -> None:
    model = build_on_meta(size, head="sequence-classification", num_labels=2)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size]
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_lists_the_sizes_of_its_backbone(family: str) -> None:
    sizes = installed().backbones[family].configs
    assert sizes == tuple(backbone_named(family).configs)
    assert set(sizes) <= {*COUNTS, *SEQ2SEQ}


def test_an_unknown_size_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean bert-base-cased"):
        backbone_named("bert").build("bert-base-case")


def test_an_unknown_option_and_an_unknown_head_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        backbone_named("bert").build("bert-base-cased", head="masked", num_label=3)
    assert len(caught.value.problems) == 2
    assert "Did you mean num_labels?" in str(caught.value)
    assert "Did you mean masked-lm?" in str(caught.value)
