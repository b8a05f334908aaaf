"""Sizes of the published networks, on the meta device; state-dict names of the releases."""

import pytest
import torch
from torch import nn

from peftcore import ConfigError, backbone_for_source, backbone_named, build_on_meta

#: Classifiers of the releases: size, classes, layout, number of parameters.
COUNTS = [
    ("point-mae", 40, "modelnet", 22_099_752),
    ("point-mae", 15, "scanobjectnn", 22_093_327),
    ("point-bert", 40, "modelnet", 22_065_960),
    ("point-m2ae", 40, "modelnet", 12_830_056),
    ("point-m2ae", 15, "scanobjectnn", 12_921_935),
]


@pytest.mark.parametrize(("size", "classes", "layout", "count"), COUNTS)
def test_classifiers_have_the_parameters_of_the_releases(size, classes, layout, count):
    options = {"head": "point-classification", "num_labels": classes, "layout": layout}
    model = build_on_meta(size, **options)
    assert sum(p.numel() for p in model.parameters()) == count


# Names as the released code spells them; written from reading it, not from this package.


def linear(name: str, into: int, out: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def conv(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into, 1), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    running = {f"{name}.running_{what}": (width,) for what in ("mean", "var")}
    return {**norm(name, width), **running, f"{name}.num_batches_tracked": ()}


def point_net(name: str, into: int, inner: tuple[int, int, int], out: int) -> dict:
    first, second, third = inner
    return {
        **conv(f"{name}.first_conv.0", into, first),
        **batch_norm(f"{name}.first_conv.1", first),
        **conv(f"{name}.first_conv.3", first, second),
        **conv(f"{name}.second_conv.0", 2 * second, third),
        **batch_norm(f"{name}.second_conv.1", third),
        **conv(f"{name}.second_conv.3", third, out),
    }


def blocks(name: str, depth: int, width: int) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        block = f"{name}.{i}"
        out |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        out |= linear(f"{block}.attn.qkv", width, 3 * width, bias=False)
        out |= linear(f"{block}.attn.proj", width, width)
        out |= linear(f"{block}.mlp.fc1", width, 4 * width)
        out |= linear(f"{block}.mlp.fc2", 4 * width, width)
    return out


def position(name: str, inner: int, width: int) -> dict[str, tuple[int, ...]]:
    return linear(f"{name}.0", 3, inner) | linear(f"{name}.2", inner, width)


def head(into: int, classes: int) -> dict[str, tuple[int, ...]]:
    name = "cls_head_finetune"
    return {
        **linear(f"{name}.0", into, 256), **batch_norm(f"{name}.1", 256),
        **linear(f"{name}.4", 256, 256), **batch_norm(f"{name}.5", 256),
        **linear(f"{name}.8", 256, classes),
    }  # fmt: skip


def encoder(width: int = 384, pointnet: int = 384) -> dict[str, tuple[int, ...]]:
    return {
        **point_net("encoder", 3, (128, 256, 512), pointnet),
        **position("pos_embed", 128, width),
        **blocks("blocks.blocks", 12, width),
        **norm("norm", width),
    }


TOKENS = {"cls_token": (1, 1, 384), "cls_pos": (1, 1, 384)}
MAE = {**TOKENS, **encoder(), **head(768, 15)}
MAE_PRETRAINED = {
    **{f"MAE_encoder.{name}": shape for name, shape in encoder().items()},
    "mask_token": (1, 1, 384),
    **position("decoder_pos_embed", 128, 384),
    **blocks("MAE_decoder.blocks", 4, 384),
    **norm("MAE_decoder.norm", 384),
    **conv("increase_dim.0", 384, 96),
}
BERT_ENCODER = {**TOKENS, **encoder(pointnet=256), **linear("reduce_dim", 256, 384)}
BERT = {
    **BERT_ENCODER,
    **linear("cls_head_finetune.0", 768, 256),
    **linear("cls_head_finetune.3", 256, 40),
}
BERT_PRETRAINED = {
    **{f"transformer_q.{name}": shape for name, shape in BERT_ENCODER.items()},
    "transformer_q.mask_token": (1, 1, 384),
    **linear("transformer_q.lm_head", 384, 8192),
    **linear("transformer_q.cls_head.0", 384, 512),
    **linear("transformer_q.cls_head.2", 512, 512),
    **{f"transformer_k.{name}": shape for name, shape in BERT_ENCODER.items()},
    "dvae.codebook": (8192, 256),
}
M2AE = {
    **point_net("h_encoder.token_embed.0", 3, (128, 256, 512), 96),
    **point_net("h_encoder.token_embed.1", 96, (96, 96, 192), 192),
    **point_net("h_encoder.token_embed.2", 192, (192, 192, 384), 384),
    **{
        name: shape
        for i, width in enumerate((96, 192, 384))
        for name, shape in (
            position(f"h_encoder.encoder_pos_embeds.{i}", width, width)
            | blocks(f"h_encoder.encoder_blocks.{i}.blocks", 5, width)
        ).items()
    },
    **norm("norm", 384),
    **head(384, 40),
}
M2AE_PRETRAINED = {
    **{name: shape for name, shape in M2AE.items() if name.startswith("h_encoder.")},
    **{
        n: s
        for i, w in enumerate((96, 192, 384))
        for n, s in norm(f"h_encoder.encoder_norms.{i}", w).items()
    },
    "mask_token": (1, 384),
    **{
        name: shape
        for i, width in enumerate((384, 192))
        for name, shape in (
            position(f"decoder_pos_embeds.{i}", width, width)
            | blocks(f"h_decoder.{i}.blocks", 1, width)
        ).items()
    },
    **conv("token_prop.0.fuse.net.0", 576, 192),
    **batch_norm("token_prop.0.fuse.net.1", 192),
    **conv("token_prop.0.extraction.operation.0.net1.0", 192, 192),
    **batch_norm("token_prop.0.extraction.operation.0.net1.1", 192),
    **conv("token_prop.0.extraction.operation.0.net2.0", 192, 192),
    **batch_norm("token_prop.0.extraction.operation.0.net2.1", 192),
    **norm("decoder_norm", 192),
    **conv("rec_head", 192, 48),
}
CLASSIFY, REBUILD = "point-classification", "masked-reconstruction"
RELEASES = {
    "point-mae": ("point-transformer", CLASSIFY, MAE, 15, ""),
    "point-mae-pretrained": ("point-transformer", CLASSIFY, MAE_PRETRAINED, 15, "new"),
    "point-mae-reconstruction": ("point-transformer", REBUILD, MAE_PRETRAINED, 0, ""),
    "point-bert": ("point-transformer", CLASSIFY, BERT, 40, ""),
    "point-bert-pretrained": ("point-transformer", CLASSIFY, BERT_PRETRAINED, 40, "new"),
    "point-m2ae": ("point-m2ae", CLASSIFY, M2AE, 40, ""),
    "point-m2ae-reconstruction": ("point-m2ae", REBUILD, M2AE_PRETRAINED, 0, ""),
}  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
def test_a_state_dict_of_a_release_loads_whole(release, tmp_path):
    family, head_name, shapes, classes, new = RELEASES[release]
    # one number for each tensor, which makes a small file
    state = {
        f"module.{name}": torch.tensor(float(i)).expand(shape) if shape else torch.tensor(i)
        for i, (name, shape) in enumerate(shapes.items(), 1)
    }
    path = tmp_path / "pretrain.pth"
    torch.save({"base_model": state, "epoch": 300, "metrics": {"acc": torch.tensor(0.9)}}, path)
    knows = backbone_for_source(str(path))
    assert knows.name == family
    options = {"num_labels": classes} if new else {}
    loaded = knows.load(str(path), head=head_name, **options)
    held = loaded.model.state_dict()
    prefix = {"point-mae-pretrained": "MAE_encoder.", "point-bert-pretrained": "transformer_q."}
    for name, value in held.items():
        given = state.get(f"module.{prefix.get(release, '')}{name}")
        if given is not None:
            assert torch.equal(value, given), name
        elif new and name.startswith("cls_"):
            assert name in (*loaded.fresh, *TOKENS) or "cls_head" in name
        else:
            pytest.fail(f"{name} is in no release")
    if not new:
        unread = {n for n in state if ".encoder_norms.0." in n}
        assert not loaded.fresh and {f"module.{n}" for n in held} == set(state) - unread
    else:
        assert all(name.startswith("cls_head_finetune.") for name in loaded.fresh)
        again = knows.load(str(path), head=head_name, **options).model
        assert torch.equal(again.cls_token, loaded.model.cls_token)


def test_point_m2aes_pre_training_has_no_norm_and_no_head(tmp_path):
    state = {name: torch.tensor(0.5).expand(shape) for name, shape in M2AE_PRETRAINED.items()}
    torch.save({"base_model": state}, tmp_path / "pre-train.pth")
    knows = backbone_for_source(str(tmp_path / "pre-train.pth"))
    options = {"head": "point-classification", "num_labels": 3, "layout": "scanobjectnn"}
    loaded = knows.load_on_meta(str(tmp_path / "pre-train.pth"), **options)
    assert {name.partition(".")[0] for name in loaded.fresh} == {"norm", "cls_head_finetune"}
    assert loaded.model.config.group_sizes == (32, 16, 16)


class Metric:
    """A class of a training script, as some checkpoints hold one."""


def test_checkpoints_that_cannot_be_used_are_refused_in_a_sentence(tmp_path):
    knows, path = backbone_named("point-transformer"), tmp_path / "x.pth"
    state = {name: torch.zeros(()).expand(shape) for name, shape in MAE.items()}
    for content, sentence in (
        ({"base_model": state, "metrics": Metric()}, "holds code or classes beside its tensors"),
        ({"base_model": {"norm.weight": torch.zeros(3)}}, "no network that the backbone"),
        ({"epoch": 3}, "holds no state dict"),
        ({n: v for n, v in state.items() if n != "norm.bias"}, "lacks 1 tensors .* norm.bias"),
        ({**state, "norm.bias": torch.zeros(7)}, r"norm.bias has the shape \(7,\)"),
    ):
        torch.save(content, path)
        with pytest.raises(ConfigError, match=sentence):
            knows.load(str(path), head="point-classification")
    path.write_bytes(b"PK no zip")
    with pytest.raises(ConfigError, match="cannot be read"):
        knows.load(str(path))
    other = backbone_named("point-m2ae").tiny()
    other.save_pretrained(tmp_path / "m2ae")
    for call, sentence in (
        (lambda: knows.load(str(tmp_path / "m2ae")), "no network that the backbone point-transf"),
        (lambda: knows.load(str(tmp_path / "none.pth")), "no such checkpoint"),
        (lambda: knows.build("point-mea"), "Did you mean point-mae"),
        (lambda: knows.build("point-mae", layout="modelnte"), "Did you mean modelnet"),
        (lambda: knows.build("point-mae", head="none", num_label=3), "Did you mean num_labels"),
        (lambda: knows.build("point-mae", dtype="int8"), "dtype 'int8'"),
        (lambda: knows.build("point-bert", head="masked-reconstruction"), "dVAE.* is not here"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            call()


def test_no_network_has_a_module_with_two_names() -> None:
    for size, *_ in COUNTS:
        model: nn.Module = build_on_meta(size)
        assert len(list(model.named_parameters(remove_duplicate=False))) == len(
            list(model.parameters())
        )


def test_the_size_that_point_m2aes_readme_tells_is_that_of_pre_training() -> None:
    model = build_on_meta("point-m2ae", head=REBUILD)
    assert (
        sum(p.numel() for p in model.parameters()) + 2 * 96 == 15_255_856
    )  # 15.3 M; one norm is never read
