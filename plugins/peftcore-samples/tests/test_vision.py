import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from peftcore_samples import vision
from peftcore_samples.onnx_file import Node, read_onnx


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode one field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, value: torch.Tensor, *, packed: bool = False, kind: int = 1) -> bytes:
    sizes = [varint(size) for size in value.shape]
    dims = field(1, b"".join(sizes)) if packed else b"".join(field(1, s) for s in value.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, value.numpy().tobytes()))


def node(name: str, operation: str, *inputs: str) -> bytes:
    return field(1, b"".join(field(1, i) for i in inputs) + field(3, name) + field(4, operation))


def test_tensors_and_nodes_of_an_onnx_file_are_read(tmp_path: Path) -> None:
    one, two = torch.randn(300, 2), torch.randn(1, 3)
    graph = (
        node("/a/MatMul", "MatMul", "x", "onnx::MatMul_7")
        + node("", "Constant")
        + tensor("onnx::MatMul_7", one)
        + tensor("two", two, packed=True)
        + tensor("whole", torch.arange(3), kind=7)
        + field(2, "graph")
    )
    # a version, a 64-bit and a 32-bit field of no interest, then the graph
    head = field(1, 8) + bytes([2 << 3 | 1]) + bytes(8) + bytes([3 << 3 | 5]) + bytes(4)
    (tmp_path / "model.onnx").write_bytes(head + field(7, graph))
    tensors, nodes = read_onnx(tmp_path / "model.onnx")
    assert list(tensors) == ["onnx::MatMul_7", "two"]
    assert torch.equal(tensors["onnx::MatMul_7"], one) and torch.equal(tensors["two"], two)
    assert nodes == [
        Node("/a/MatMul", "MatMul", ("x", "onnx::MatMul_7")),
        Node("", "Constant", ()),
    ]


def test_the_parts_of_a_vision_transformer_get_their_names_in_timm() -> None:
    width = 4
    old, product = "backbone.encoder.layer.0", "/backbone/encoder/layer.0"
    held = {"backbone.embeddings.cls_token": torch.randn(1, 1, width)}
    for leaf in ("weight", "bias"):
        held[f"backbone.embeddings.patch_embeddings.projection.{leaf}"] = torch.randn(width)
        for name in ("backbone.layernorm", f"{old}.norm1", f"{old}.norm2"):
            held[f"{name}.{leaf}"] = torch.randn(width)
    for scale in ("1", "2"):
        held[f"{old}.layer_scale{scale}.lambda1"] = torch.randn(width)
    nodes = []
    parts = ("key", "value", "query")  # in the order of the file
    paths = [*(f"attention.attention.{p}" for p in parts), "attention.output.dense"]
    for i, path in enumerate([*paths, "mlp.fc1", "mlp.fc2"]):
        held[f"{old}.{path}.bias"] = torch.randn(width)
        held[f"onnx::MatMul_{i}"] = torch.randn(width, width)
        name = f"{product}/{path.replace('.', '/')}/MatMul"
        nodes.append(Node(name, "MatMul", ("x", f"onnx::MatMul_{i}")))
    held["onnx::Reshape_9"] = torch.randn(1, 9, width)
    held["onnx::Concat_8"] = torch.randn(1, 1, width)
    made = dict(vision.vit_tensors(held, nodes))
    assert torch.equal(made["pos_embed"][:, 0], held["onnx::Concat_8"][:, 0])
    qkv = torch.cat([held[f"onnx::MatMul_{i}"].T for i in (2, 0, 1)])
    assert torch.equal(made["blocks.0.attn.qkv.weight"], qkv)
    assert torch.equal(made["blocks.0.mlp.fc2.weight"], held["onnx::MatMul_5"].T)
    assert len(made) == 2 + 4 + 14


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_mean", "bn2.running_mean"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.8._bn1.bias", "blocks.4.0.bn2.bias"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_efficientnet_has_its_names_in_timm(old: str, new: str) -> None:
    assert vision.efficientnet_name(old) == new


def network(folder: Path):
    """Return timm's model of a folder, every tensor of which must fit."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


@pytest.mark.weights
def test_the_vision_transformer_knows_more_of_digits_than_a_random_one() -> None:
    from sklearn.datasets import load_digits

    model = network(vision.vit_s14())
    assert sum(p.numel() for p in model.parameters()) == 22_056_192
    model.set_input_size(img_size=(56, 56))
    digits = load_digits()
    images = torch.from_numpy(digits.images[:300]).float()[:, None] / 4 - 2
    labels = torch.from_numpy(digits.target[:300])
    with torch.inference_mode():
        features = model(
            F.interpolate(images, size=(56, 56), mode="bilinear").expand(-1, 3, -1, -1)
        )
    known, asked = F.normalize(features - features[:200].mean(0), dim=-1).split([200, 100])
    nearest = (asked @ known.T).argmax(1)
    # .76; with random weights .39
    assert (labels[:200][nearest] == labels[200:]).float().mean() > 0.65


@pytest.mark.weights
def test_efficientnet_sees_a_daisy() -> None:
    from sklearn.datasets import load_sample_image

    model = network(vision.efficientnet_lite0())
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
    image = image[None].float() / 127.5 - 1
    with torch.inference_mode():
        guess = model(F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True))
    assert guess.argmax().item() == 985  # the daisy among ImageNet's classes
