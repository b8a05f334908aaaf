import io
import struct
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from peftcore_samples.whisper import converted, read_ctranslate2, whisper_tiny_en

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
CONFIG = WhisperConfig(
    vocab_size=20, d_model=64, num_mel_bins=4, max_source_positions=6, max_target_positions=5,
    encoder_layers=2, decoder_layers=2, encoder_attention_heads=1, decoder_attention_heads=1,
    encoder_ffn_dim=256, decoder_ffn_dim=256, **SPECIAL,
)  # fmt: skip


def packed(model: WhisperForConditionalGeneration) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model as CTranslate2 names and fuses them."""
    parts = dict(model.named_modules())

    def norm(name: str, path: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}/gamma", parts[path].weight
        yield f"{name}/beta", parts[path].bias

    def fused(name: str, *paths: str) -> Iterator[tuple[str, Tensor]]:
        layers = [parts[path] for path in paths]
        yield f"{name}/weight", torch.cat([layer.weight for layer in layers])
        biases = [torch.zeros(64) if layer.bias is None else layer.bias for layer in layers]
        yield f"{name}/bias", torch.cat(biases)

    for side in ("encoder", "decoder"):
        yield f"{side}/num_heads", torch.tensor(1, dtype=torch.int16)
        at = f"model.{side}"
        yield f"{side}/position_encodings/encodings", parts[f"{at}.embed_positions"].weight
        yield from norm(f"{side}/layer_norm", f"{at}.layer_norm")
        for i in range(2):
            here, block = f"{side}/layer_{i}", f"{at}.layers.{i}"
            own, cross = f"{block}.self_attn", f"{block}.encoder_attn"
            q, k, v, out = (f"{x}_proj" for x in ("q", "k", "v", "out"))
            yield from norm(f"{here}/self_attention/layer_norm", f"{own}_layer_norm")
            yield from fused(
                f"{here}/self_attention/linear_0", f"{own}.{q}", f"{own}.{k}", f"{own}.{v}"
            )
            yield from fused(f"{here}/self_attention/linear_1", f"{own}.{out}")
            if side == "decoder":
                yield from norm(f"{here}/attention/layer_norm", f"{cross}_layer_norm")
                yield from fused(f"{here}/attention/linear_0", f"{cross}.{q}")
                yield from fused(f"{here}/attention/linear_1", f"{cross}.{k}", f"{cross}.{v}")
                yield from fused(f"{here}/attention/linear_2", f"{cross}.{out}")
            yield from norm(f"{here}/ffn/layer_norm", f"{block}.final_layer_norm")
            yield from fused(f"{here}/ffn/linear_0", f"{block}.fc1")
            yield from fused(f"{here}/ffn/linear_1", f"{block}.fc2")
    yield from fused("encoder/conv1", "model.encoder.conv1")
    yield from fused("encoder/conv2", "model.encoder.conv2")
    yield "decoder/embeddings/weight", parts["model.decoder.embed_tokens"].weight


def written(tensors: dict[str, Tensor]) -> bytes:
    """Return a CTranslate2 file of fp16 tensors, with the aliases at its end."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, tensor in tensors.items():
        number, form = (4, torch.float16) if tensor.is_floating_point() else (2, torch.int16)
        data = tensor.detach().to(form).numpy().tobytes()
        shape = struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)
        out += text(name) + shape + struct.pack("<BI", number, len(data)) + data
    return out + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/...")


def test_every_tensor_of_the_file_finds_its_place() -> None:
    model = WhisperForConditionalGeneration(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():  # none is zero or one; all are exact in fp16
            parameter.normal_().copy_(parameter.half())
    tensors = dict(packed(model))
    again = converted(read_ctranslate2(io.BytesIO(written(tensors))), SPECIAL)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert again.proj_out.weight is again.model.decoder.embed_tokens.weight
    assert again.dtype == torch.float32


def test_a_tensor_too_few_is_no_model() -> None:
    tensors = dict(packed(WhisperForConditionalGeneration(CONFIG)))
    del tensors["decoder/layer_1/attention/linear_1/weight"]
    with pytest.raises(KeyError, match="decoder/layer_1/attention/linear_1/weight"):
        converted(tensors, SPECIAL)


@pytest.mark.weights
def test_whisper_knows_english_and_hears_little_in_a_tone() -> None:
    from transformers import AutoFeatureExtractor, AutoTokenizer

    state = torch.get_rng_state()
    folder = whisper_tiny_en()
    assert torch.equal(torch.get_rng_state(), state)
    model, report = WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.eval().parameters()) == 37_760_256
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("The").input_ids == [50257, 50362, 464, 50256]
    second = torch.arange(16000) / 16000
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * second)
    extract = AutoFeatureExtractor.from_pretrained(folder)
    features = extract(tone.numpy(), sampling_rate=16000, return_tensors="pt").input_features

    def loss(text: str) -> float:
        labels = torch.tensor([tokenizer(text).input_ids[1:]])
        with torch.no_grad():
            return float(model(features, labels=labels).loss)

    sentence, shuffled = (
        loss(" The cat sat on the mat and looked at the dog."),
        loss(" The on mat dog the looked sat cat at and the."),
    )
    assert sentence < 4.5 < 6 < shuffled
    # there is nothing to transcribe
    assert model.generate(features).shape[1] < 4
