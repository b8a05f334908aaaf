from peftcore import Context
from peftcore.testing import BackboneContract, tiny

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
    """What holds for tokens does so on each side alone."""

    heads = ("none", "seq2seq-lm")

    def test_the_context_marks_the_padding(self) -> None:
        """A call has two sequences, so that nothing is said of either."""
        knows, model, batch = tiny(self.backbone, "seq2seq-lm")
        found = knows.context(model, (), batch)
        assert isinstance(found, Context) and found.mask is None and found.prompt is None


class TestT5(Seq2SeqContract):
    backbone = "t5"


class TestBart(Seq2SeqContract):
    backbone = "bart"
