"""Released corpora in miniature: every reader, its folds, and what is said of damaged ones."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.model_selection import KFold

from peftcore import DataError
from peftcore_speech.classification import AudioClassification, AudioClassificationConfig
from peftcore_speech.corpora import CORPORA, rows_of
from peftcore_speech.folds import leave_out
from peftcore_train.data import Row
from peftcore_train.schema import SPLITS, DataSection


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sound(path: Path, hertz: float = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(800) / 2000), 2000)


def iemocap(root: Path) -> Path:
    head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    for k in range(1, 6):
        dialogue = f"Ses0{k}F_impro01"
        names = ("F000", "M000", "F001", "M001", "F002", "M002")
        labels = ("neu", "exc", "ang", "sad", "xxx", "hap")
        turns = "".join(
            f"[{i}.2901 - {i}.9357]\t{dialogue}_{name}\t{label}\t[2.5000, 2.5000, 2.5000]\n"
            f"C-E2:\tNeutral;\t()\nC-F1:\tNeutral;\t(curious)\n\n"
            for i, (name, label) in enumerate(zip(names, labels, strict=True))
        )
        folder = root / f"Session{k}" / "dialog" / "EmoEvaluation"
        write(folder / f"{dialogue}.txt", head + turns)
        write(folder / f"._{dialogue}.txt", "Mac OS X")
        for i, name in enumerate(names):
            place = root / f"Session{k}" / "sentences" / "wav" / dialogue
            sound(place / f"{dialogue}_{name}.wav", 100 + 10 * i + k)
    return root


def msp_improv(root: Path) -> Path:
    lines = []
    for k in range(1, 7):
        for gender, label in (("F", "N"), ("M", "A"), ("F", "S"), ("M", "H"), ("F", "X")):
            name = f"IMPROV-S{k:02}{label}-{gender}0{k}-P-FM01"
            lines.append(f"UTD-{name}.avi; {label}; A:2.4; V:3.1; D:2.9; N:3.8;\n")
            lines.append("WORKER00000001; Neutral; Neutral; A:2; V:3; D:3; N:4;\n\n")
            sound(root / "Audio" / f"session{k}" / f"S{k:02}{label}" / "P" / f"MSP-{name}.wav")
    write(root / "Evalution.txt", "".join(lines))
    return root


def crema_d(root: Path) -> Path:
    actors = [1001, 1002, 1003, 1004, 1005, 1076]
    names = [f"{actor}_{text}_XX" for actor in actors for text in ("IEO_ANG", "MTI_SAD")]
    votes = dict.fromkeys(names, "A") | {n: "S" for n in names if n.endswith("SAD_XX")}
    votes["1002_IEO_ANG_XX"] = "A:D"
    sexes = "".join(f"{a},30,{'Male' if a % 2 else 'Female'},Caucasian,NH\n" for a in actors)
    write(root / "VideoDemographics.csv", "ActorID,Age,Sex,Race,Ethnicity\n" + sexes)
    rows = "".join(
        f'"{i}","{n}","A",50,"A",50,"{v}","60"\n' for i, (n, v) in enumerate(votes.items())
    )
    head = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote"'
    write(root / "processedResults" / "summaryTable.csv", f'{head},"MultiModalLevel"\n{rows}')
    for name in names:
        sound(root / "AudioWAV" / f"{name}.wav")
    return root


def msp_podcast(root: Path) -> Path:
    lines = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    sets = ("Train", "Train", "Development", "Validation", "Test1", "Test2", "Train")
    for i, split in enumerate(sets):
        speaker = "Unknown" if i == 6 else f"Speaker{i}"
        gender = ("Female", "Male")[i % 2]
        lines.append(
            f"MSP-PODCAST_{i:04}.wav,{'NASH'[i % 4]},4.2,3.8,4.6,{speaker},{gender},{split}"
        )
        sound(root / "Audios" / f"MSP-PODCAST_{i:04}.wav")
    write(root / "Labels" / "labels_consensus.csv", "\n".join(lines) + "\n")
    return root


def splits(corpus: str, root: Path, **task: object) -> dict[str, list[Row]]:
    config = AudioClassificationConfig.model_validate({"corpus": corpus, **task})
    made = AudioClassification(config)
    return {split: made.read(DataSection(source=str(root)), split) for split in SPLITS}


@pytest.mark.parametrize(
    ("corpus", "make", "first", "labels"),
    [
        (
            "iemocap", iemocap,
            {"id": "Ses02F_impro01_F000", "label": "neu", "speaker": "Ses02F", "gender": "female",
             "session": "2",
             "audio": "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav"},
            {"neu": 5, "hap": 10, "ang": 5, "sad": 5},
        ),
        (
            "msp-improv", msp_improv,
            {"id": "MSP-IMPROV-S02N-F02-P-FM01", "label": "N", "speaker": "F02",
             "gender": "female", "session": "2",
             "audio": "Audio/session2/S02N/P/MSP-IMPROV-S02N-F02-P-FM01.wav"},
            {"N": 6, "A": 6, "S": 6, "H": 6},
        ),
        (
            "crema-d", crema_d,
            {"id": "1003_IEO_ANG_XX", "label": "A", "speaker": "1003", "gender": "male",
             "audio": "AudioWAV/1003_IEO_ANG_XX.wav"},
            {"A": 5, "S": 5},
        ),
        (
            "msp-podcast", msp_podcast,
            {"id": "MSP-PODCAST_0000.wav", "label": "N", "speaker": "Speaker0",
             "gender": "female", "split": "train", "audio": "Audios/MSP-PODCAST_0000.wav"},
            {"N": 2, "A": 1, "S": 1, "H": 1},
        ),
    ],
)  # fmt: skip
def test_a_corpus_is_read_as_it_is_released(
    tmp_path: Path, corpus: str, make: Callable[[Path], Path],
    first: dict[str, str], labels: dict[str, int],
) -> None:  # fmt: skip
    found = splits(corpus, make(tmp_path))
    assert dict(found["train"][0].values) == first
    assert all(row.path("audio").is_file() for rows in found.values() for row in rows)
    assert Counter(row.values["label"] for rows in found.values() for row in rows) == labels
    groups = [{row.values["speaker"] for row in rows} for rows in found.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_every_recording_is_tested_in_one_fold_and_labels_can_be_chosen(tmp_path: Path) -> None:
    root = iemocap(tmp_path)
    tested = [
        row.values["id"] for k in range(1, 6) for row in splits("iemocap", root, fold=k)["test"]
    ]
    assert len(tested) == len(set(tested)) == 25
    kept = splits("iemocap", root, labels=["neu", "exc"])["train"]
    assert {row.values["label"] for row in kept} == {"neu", "exc"}


@pytest.mark.parametrize(("groups", "folds"), [(5, 5), (6, 6), (91, 5), (7, 3)])
def test_folds_are_those_of_peft_ser(groups: int, folds: int) -> None:
    """The test is scikit-learn's; validation the last session, or the last fifth of speakers."""
    names = [str(1001 + i) for i in range(groups)]
    for fold, (rest, test) in enumerate(KFold(folds).split(names), 1):
        found = leave_out(names, folds, fold)
        held = -len(rest) // 5 if groups > 10 else -1
        if groups == 7:  # no corpus of the paper
            held = -(-len(rest) // 5) * -1
        assert [names[i] for i in test] == [n for n in names if found[n] == "test"]
        assert [names[i] for i in rest[held:]] == [n for n in names if found[n] == "validation"]


def test_what_is_damaged_in_a_corpus_is_named_with_its_line(tmp_path: Path) -> None:
    root = iemocap(tmp_path / "iemocap")
    file = root / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    file.write_text(file.read_text().replace("\tsad\t[2.5000", "\tsad [2.5000"))
    (root / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M001.wav").unlink()
    _, bad = rows_of(CORPORA["iemocap"], root)
    (sentence,) = map(str, bad)
    assert sentence.startswith("Session1/dialog/EmoEvaluation/Ses01F_impro01.txt:15: '[3.2901")
    task = AudioClassification(AudioClassificationConfig(corpus="iemocap"))
    problems: list[DataError] = []
    with pytest.raises(DataError, match=r"txt:15: column 'audio': .*M001\.wav: no such file"):
        task.check(task.read(DataSection(source=str(root)), "train", problems))

    crema = crema_d(tmp_path / "crema")
    sound(crema / "AudioWAV" / "1003_IEO_ANX_XX.wav")
    (table := crema / "VideoDemographics.csv").write_text(
        table.read_text().replace("1004,", "1104,")
    )
    sentences = [str(error) for error in rows_of(CORPORA["crema-d"], crema)[1]]
    assert sentences[0].endswith(
        "summaryTable.csv has no '1003_IEO_ANX_XX'. Did you mean 1003_IEO_ANG_XX?"
    )
    assert "VideoDemographics.csv has no '1004'" in sentences[1] and len(sentences) == 3

    podcast = msp_podcast(tmp_path / "podcast")
    (table := podcast / "Labels" / "labels_consensus.csv").write_text(
        table.read_text().replace("Speaker1,Male", "Speaker1,Mole")
    )
    (sentence,) = map(str, rows_of(CORPORA["msp-podcast"], podcast)[1])
    assert sentence == "labels_consensus.csv:3: column 'Gender' holds 'Mole', not Male or Female."
    with pytest.raises(DataError, match=r"is not laid out as released.*Evalution\.txt"):
        rows_of(CORPORA["msp-improv"], podcast)


def test_a_speaker_in_two_splits_is_named(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    for split, speakers in (("train", "xy"), ("validation", "zx"), ("test", "uy")):
        lines = [
            json.dumps({"audio": "a.wav", "label": str(i), "who": who}) + "\n"
            for i, who in enumerate(speakers)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    task = AudioClassification(AudioClassificationConfig(speaker_column="who"))
    problems: list[DataError] = []
    for split in SPLITS:
        task.read(DataSection(source=str(tmp_path)), split, problems)
    assert [str(one).partition(", so")[0] for one in problems] == [
        "validation.jsonl:2: the who 'x' stands in train too",
        "test.jsonl:2: the who 'y' stands in train too",
    ]


def test_one_table_is_divided_by_speakers(tmp_path: Path) -> None:
    lines = [f"a.wav,{label},{who}" for who in range(1, 7) for label in ("low", "high")]
    write(tmp_path / "all.csv", "\n".join(["audio,label,who", *lines]) + "\n")
    config = AudioClassificationConfig(fold_column="who", folds=3, fold=2, speaker_column="who")
    task, data = AudioClassification(config), DataSection(source=str(tmp_path / "all.csv"))
    found = {s: sorted({row.values["who"] for row in task.read(data, s)}) for s in SPLITS}
    assert found == {"train": ["1", "2", "5"], "validation": ["6"], "test": ["3", "4"]}
    with pytest.raises(DataError, match=r"data.split does not go with task.fold_column"):
        shares = {"validation": 0.1, "test": 0.1}
        task.read(DataSection(source=str(tmp_path / "all.csv"), split=shares), "train")


def test_the_recipe_of_peft_ser_trains_on_a_fold(
    tmp_path: Path, wav2vec2: Path, smoke: Callable[..., dict]
) -> None:
    corpus = {"source": str(iemocap(tmp_path / "IEMOCAP_full_release"))}
    found = smoke("ser-iemocap.yaml", backbone={"source": str(wav2vec2)}, data=corpus)
    assert found["rows"] == {"train": 15, "validation": 5, "test": 5}
    assert {"uar", "statistical_parity"} <= found["test"].keys()
