from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close

import peftcore
from peftcore import ConfigError, backbone_named, backbone_of, build_on_meta, survey
from peftcore_protein.heads import PooledEncoder, PPIModel, SymmetryModel

ESM = backbone_named("esm")
CLS, PAD, EOS = 0, 1, 2


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return ESM.tiny()


def pairs(pad: int = PAD) -> Tensor:
    """Return two pairs of sequences of 3 to 6 residues, [2, 2, 8]."""
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14, 15, 16, 17], [18, 19, 20, 21, 22]]
    full = [[CLS, *row, EOS] for row in rows]
    return torch.tensor([row + [pad] * (8 - len(row)) for row in full]).view(2, 2, 8)


def perturbed(model: nn.Module) -> nn.Module:
    """Return the model with a pooler that says different things of different sequences."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_the_head_of_the_650m_encoder_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = PPIModel(build_on_meta("esm2-650m"))
    assert sum(p.numel() for p in model.classifier.parameters()) == 164_097
    plan = peftcore.plan(model, [], modules_to_save=model.modules_to_save)
    assert plan.head == 164_097 and plan.base == 651_040_661 + 164_097


def test_a_pair_says_the_same_in_either_order() -> None:
    model = perturbed(PPIModel(encoder()))
    logits = model(pairs()).logits
    assert logits.shape == (2,)
    assert_close(model(pairs().flip(1)).logits, logits)
    assert not torch.allclose(logits[0], logits[1])


def test_a_pair_is_the_head_on_the_mean_of_two_single_runs() -> None:
    model = perturbed(PPIModel(encoder()))
    first, second = pairs()[0]
    one = model.encoder(first[None, :5]).pooler_output
    two = model.encoder(second[None]).pooler_output
    head = model.classifier
    expected = head.out_proj(torch.tanh(head.dense((one + two) / 2)))
    assert_close(model(pairs()).logits[:1], expected[0], atol=1e-5, rtol=1e-5)


def test_the_encoder_runs_once_for_all_sequences() -> None:
    model = PPIModel(encoder())
    seen: list[tuple[int, ...]] = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    model(pairs())
    assert seen == [(4, 8)]


def test_longer_padding_changes_nothing() -> None:
    model = perturbed(PPIModel(encoder()))
    longer = nn.functional.pad(pairs(), (0, 3), value=model.padding_value)
    assert_close(model(longer).logits, model(pairs()).logits, atol=1e-5, rtol=1e-5)


def masks_of(model: PooledEncoder, ids: Tensor, **options: Tensor) -> Tensor:
    """Return the mask with which the encoder ran."""
    seen: list[Tensor] = []
    handle = model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    model(ids, **options)
    handle.remove()
    return seen[0]


def test_padding_is_masked_and_the_start_token_is_not() -> None:
    model = PPIModel(encoder())
    assert model.padding_value == PAD
    ids = pairs()
    assert masks_of(model, ids).tolist() == (ids != PAD).long().flatten(0, 1).tolist()


def test_released_padding_masks_the_start_token_too() -> None:
    model = PPIModel(encoder(), released_padding=True)
    assert model.padding_value == 0
    mask = masks_of(model, pairs(pad=0))
    assert mask[0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    one, other = perturbed(model), perturbed(PPIModel(encoder()))
    other.load_state_dict(one.state_dict())
    assert not torch.allclose(one(pairs(pad=0)).logits, other(pairs()).logits)


def test_a_mask_that_is_given_is_used() -> None:
    given = torch.ones(2, 2, 8, dtype=torch.long)
    assert bool((masks_of(PPIModel(encoder()), pairs(), attention_mask=given) == 1).all())


def test_the_loss_is_binary_cross_entropy_with_logits() -> None:
    model = perturbed(PPIModel(encoder()))
    labels = torch.tensor([1, 0])
    out = model(pairs(), labels=labels)
    p = torch.sigmoid(out.logits)
    assert_close(out.loss, -(p[0].log() + (1 - p[1]).log()) / 2)


def test_symmetry_has_18_logits_and_takes_several_ones() -> None:
    model = perturbed(SymmetryModel(encoder()))
    labels = torch.zeros(2, 18)
    labels[:, [1, 9]] = 1
    out = model(pairs()[0], labels=labels)
    assert out.logits.shape == (2, 18)
    p = torch.sigmoid(out.logits)
    assert_close(out.loss, -(labels * p.log() + (1 - labels) * (1 - p).log()).mean())


def test_the_pooler_is_frozen_unless_it_shall_train() -> None:
    frozen, trained = PPIModel(encoder()), PPIModel(encoder(), train_pooler=True)
    assert not any(p.requires_grad for p in frozen.encoder.pooler.parameters())
    assert all(p.requires_grad for p in trained.encoder.pooler.parameters())
    assert (frozen.modules_to_save, frozen.save_frozen) == (("head",), ("pooler",))
    assert (trained.modules_to_save, trained.save_frozen) == (("head", "pooler"), ())


@pytest.mark.parametrize("train_pooler", [False, True])
def test_a_random_pooler_is_stored_with_the_adapter(tmp_path: Path, train_pooler: bool) -> None:
    torch.manual_seed(1)
    model = PPIModel(encoder(), train_pooler=train_pooler)
    adapter = peftcore.attach(
        model,
        [{"method": "probe", "targets": ["attention.key", "attention.value"]}],
        modules_to_save=model.modules_to_save,
        save_frozen=model.save_frozen,
    )
    names = {name for name, _ in adapter.named_parameters()}
    assert any("pooler" in name for name in names) is train_pooler
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    model(pairs(), labels=torch.tensor([1, 0])).loss.backward()
    adapter.check_alive()
    optimizer.step()
    expected = model(pairs()).logits
    adapter.save(tmp_path / "adapter")

    again = PPIModel(encoder(), train_pooler=train_pooler)
    with torch.no_grad():  # another run draws another pooler and another head
        again.encoder.pooler.dense.weight.normal_()
        again.classifier.dense.weight.normal_()
    peftcore.load(again, tmp_path / "adapter")
    assert torch.equal(again(pairs()).logits, expected)


def test_an_encoder_without_a_pooler_is_told() -> None:
    bare = transformers.EsmModel(transformers.EsmConfig(**ESM.small), add_pooling_layer=False)
    with pytest.raises(ConfigError, match="EsmModel has no pooler"):
        PPIModel(bare)


def test_roles_are_found_inside_the_wrapper() -> None:
    model = PPIModel(encoder())
    backbone = backbone_of(model)
    assert backbone.name == "esm" and backbone.entry(model) == "encoder"
    sites = survey(model, backbone).sites
    assert [s.path for s in sites if s.role == "head"] == [
        "classifier.dense",
        "classifier.out_proj",
    ]
    assert [s.path for s in sites if s.role == "pooler"] == ["encoder.pooler.dense"]
    assert [s.path for s in sites if s.role == "block"] == [
        f"encoder.encoder.layer.{i}" for i in (0, 1)
    ]
    assert {s.layer.out_features for s in sites if s.role == "block"} == {32}


def test_a_bert_can_be_the_encoder() -> None:
    config = transformers.BertConfig(**{**ESM.small, "pad_token_id": 0})
    model = SymmetryModel(transformers.BertModel(config))
    assert model.padding_value == 0
    assert model(pairs(pad=0)[0]).logits.shape == (2, 18)


def test_gradient_checkpointing_changes_nothing() -> None:
    grads = []
    for on in (False, True):
        torch.manual_seed(0)
        model = PPIModel(encoder()).train()
        if on:
            model.gradient_checkpointing_enable()
        model(pairs(), labels=torch.tensor([1, 0])).loss.backward()
        grads.append(model.encoder.encoder.layer[0].attention.self.key.weight.grad)
    assert_close(grads[0], grads[1])
    assert grads[0].abs().sum() > 0
