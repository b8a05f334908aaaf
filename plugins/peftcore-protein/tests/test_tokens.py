from pathlib import Path

import pytest
from transformers import BertTokenizer, EsmTokenizer

from peftcore import ConfigError, DataError
from peftcore_protein.tokens import tokenize

ESM = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
)
BERT = "[PAD] [UNK] [CLS] [SEP] [MASK] A R N D C Q E G H I L K M F P S T W Y V"


@pytest.fixture
def esm(tmp_path: Path) -> EsmTokenizer:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(ESM.split()))
    return EsmTokenizer(str(path))


@pytest.fixture
def bert(tmp_path: Path) -> BertTokenizer:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(BERT.split()))
    return BertTokenizer(str(path), do_lower_case=False)


def test_esm_rows_are_those_of_its_own_tokenizer(esm: EsmTokenizer) -> None:
    sequences = ["EVQLVESGGG", "MKUXB"]
    assert tokenize(sequences, esm) == esm(sequences)["input_ids"]
    assert tokenize(["EVQL"], esm) == [[0, 9, 7, 16, 4, 2]]


def test_bert_rows_are_those_of_the_spaced_sequence(bert: BertTokenizer) -> None:
    assert tokenize(["EVQLVES"], bert) == [bert("E V Q L V E S")["input_ids"]]
    # its own tokenizer takes the plain sequence for one unknown word
    assert bert("EVQLVES")["input_ids"] == [2, 1, 3]


@pytest.mark.parametrize("text", ["evql", " E V\nQL ", "EVQL*", "E-VQ.L", "EVQL* ", "EV--QL*"])
def test_case_space_gaps_and_a_final_stop_do_not_matter(text: str, esm: EsmTokenizer) -> None:
    assert tokenize([text], esm) == tokenize(["EVQL"], esm)


def test_a_residue_that_the_vocabulary_lacks_is_unknown(
    esm: EsmTokenizer, bert: BertTokenizer
) -> None:
    assert tokenize(["AJ"], esm) == [[0, 5, 24, 2]]
    assert tokenize(["AJX"], bert) == [[2, 5, 1, 1, 3]]


def test_a_long_sequence_loses_its_end_and_keeps_the_special_tokens(esm: EsmTokenizer) -> None:
    assert tokenize(["EVQL"], esm, max_length=4) == [[0, 9, 7, 2]]


@pytest.mark.parametrize("text", ["", "  ", "*", "--"])
def test_an_empty_sequence_names_its_row(text: str, esm: EsmTokenizer) -> None:
    with pytest.raises(DataError, match="row 2: the sequence is empty"):
        tokenize(["A", text], esm)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EV1", "row 1: '1' at residue 3 is no residue"),
        ("E*V", "Cut the sequence there"),
        ("EÄ", "'Ä' at residue 2"),
    ],
)
def test_what_is_no_residue_names_its_place(text: str, message: str, esm: EsmTokenizer) -> None:
    with pytest.raises(DataError, match=message):
        tokenize([text], esm)


def test_a_tokenizer_of_words_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"]))
    with pytest.raises(ConfigError, match="no token for the residues A, C"):
        tokenize(["AC"], BertTokenizer(str(path)))
