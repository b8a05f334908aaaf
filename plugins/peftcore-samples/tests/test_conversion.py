import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peftcore_samples import models
from peftcore_samples.cache import is_whole

Python = Callable[..., "subprocess.CompletedProcess[str]"]

VH = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYY"
    "CSRWGGDGFYAMDYWGQGTLVTVSS"
)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens))
    return path


def test_residues_are_tokens_spaced_or_not(vocabulary: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    models._residues(vocabulary, 512).save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("QVQL")["input_ids"] == [2, 18, 22, 18, 14, 3]
    assert tokenizer("Q V Q L")["input_ids"] == [2, 18, 22, 18, 14, 3]
    assert tokenizer("Q[MASK]QL")["input_ids"] == [2, 18, tokenizer.mask_token_id, 18, 14, 3]
    assert tokenizer("QXq")["input_ids"] == [2, 18, 1, 1, 3]
    assert tokenizer.model_max_length == 512
    assert tokenizer(["QV", "Q"], padding=True)["input_ids"][1] == [2, 18, 3, 0]


SAVE = """
import resource
from pathlib import Path
from transformers import BertConfig, BertModel
from peftcore import PeftcoreError
from peftcore_samples.cache import cached
from peftcore_samples.models import _residues, _save
config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=25)
def build(target, scratch):
    _save(BertModel(config), _residues(Path({vocabulary!r}), 512), target)
for largest_file in (100_000, 500):  # stops the model, then the tokenizer
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, 100_000))
    try: cached("toy", build)
    except PeftcoreError as error: print(error)
"""


def test_a_full_disk_while_saving_is_one_sentence(
    python: Python, vocabulary: Path, cache: Path
) -> None:
    done = python(SAVE.format(vocabulary=str(vocabulary)), "-B")
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all(line.startswith("toy cannot be written to the cache") for line in lines)
    assert all("os error 27" in line and "Free some space" in line for line in lines)
    assert not list((cache / "samples").iterdir())


@pytest.mark.weights
@pytest.mark.slow
def test_antiberty_recovers_masked_residues_of_an_antibody() -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

    state = torch.get_rng_state()
    folder = models.antiberty()
    assert torch.equal(torch.get_rng_state(), state)
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(VH, return_tensors="pt")["input_ids"]
    place = torch.arange(1, len(VH) + 1)
    masked = ids.repeat(len(VH), 1)
    masked[place - 1, place] = tokenizer.mask_token_id
    with torch.no_grad():
        guess = model.eval()(masked).logits[place - 1, place].argmax(-1)
    assert (guess == ids[0, place]).float().mean() > 0.8
    _, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}


@pytest.mark.weights
@pytest.mark.slow
def test_a_killed_conversion_leaves_no_entry_and_the_next_makes_it(
    python_path: str, cache: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = "from peftcore_samples.models import smollm2; smollm2()"
    process = subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.PIPE)
    while not list(cache.glob("samples/.tmp-*/new/tokenizer.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path for path in (cache / "samples").iterdir() if path.name[0] != "."] == []

    state = torch.get_rng_state()
    folder = models.smollm2()
    assert torch.equal(torch.get_rng_state(), state)
    assert is_whole(folder)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("The capital of Italy is", return_tensors="pt")
    made = model.generate(**batch, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(made[0]).endswith(" Rome")
    assert (folder / "model.safetensors").stat().st_size > 500_000_000
