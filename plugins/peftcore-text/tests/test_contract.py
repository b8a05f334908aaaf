from peftcore.testing import BackboneContract

HEADS = ("none", "sequence-classification", "masked-lm")


class TestBert(BackboneContract):
    backbone = "bert"
    heads = HEADS


class TestRoberta(BackboneContract):
    backbone = "roberta"
    heads = HEADS


class TestDeberta(BackboneContract):
    backbone = "deberta"
    heads = HEADS


class TestDistilBert(BackboneContract):
    backbone = "distilbert"
    heads = HEADS


class TestElectra(BackboneContract):
    backbone = "electra"
    heads = HEADS


class Seq2SeqContract(BackboneContract):
    heads = ("none", "seq2seq-lm")


class TestT5(Seq2SeqContract):
    backbone = "t5"


class TestBart(Seq2SeqContract):
    backbone = "bart"
