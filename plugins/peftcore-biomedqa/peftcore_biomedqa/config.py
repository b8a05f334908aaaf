"""What a recipe can say of biomedical questions."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peftcore_biomedqa.releases import Pseudo
from peftcore_train.text import LengthConfig

#: Three ways to ask; the paper's own are not known.
TEMPLATES = (
    "Answer the biomedical question from the abstract with yes, no or maybe. Question: {question}"
    " Abstract: {context}",
    "{context} Based on this text, {question} Yes, no or maybe?",
    "Read the evidence and decide. Evidence: {context} Question: {question} The answer is",
)
_LABELS = {"yes": "yes", "no": "no", "maybe": "maybe"}


class BiomedicalQAConfig(LengthConfig):
    """The ``task`` section of biomedical questions; a reconstruction."""

    corpus: Literal["pubmedqa", "bioasq"] | None = Field(
        None,
        description="How `data.source` is laid out, where it is a release: PubMedQA's folder, or"
        " BioASQ's JSON, of which yes/no questions are taken. Else its rows have `question`,"
        " `context` and `label`.",
    )
    part: Literal["labelled", "artificial", "unlabelled"] = Field(
        "labelled",
        description="Part of PubMedQA that trains: PQA-L, PQA-A, or PQA-U with `pseudo_labels`;"
        " PQA-L's test tests all of them.",
    )
    fold: int = Field(0, ge=0, le=9, description="Which of PQA-L's ten folds validates.")
    pseudo_labels: str | None = Field(
        None,
        description="Predictions for PQA-U, as `peftcore predict --probabilities` writes them.",
    )
    confidence: float = Field(
        0.9, ge=0, le=1, description="Probability from which on a pseudo label is taken."
    )
    templates: tuple[str, ...] = Field(
        TEMPLATES,
        min_length=1,
        max_length=64,
        description="Ways to ask, each with `{question}`; `{context}` stands for the text.",
    )
    labels: dict[str, str] | None = Field(
        None,
        min_length=2,
        description="Each label and its word, which is one token; by default yes, no and maybe, of"
        " BioASQ yes and no.",
    )
    contrast: float = Field(
        0.1, ge=0, le=1000, description="Weight of the contrast between questions; 0 has none."
    )
    contrast_temperature: float = Field(
        0.1, gt=0, le=100, description="Divides the cosines of the contrast."
    )
    contrast_same_label: bool = Field(
        True, description="Questions of one label attract each other, not only one's templates."
    )
    contrast_state: Literal["encoder", "decoder"] = Field(
        "encoder",
        description="What is compared: the mean of the encoder's states, or the decoder's first"
        " state.",
    )
    soft_prompt: int = Field(
        0, ge=0, le=1000, description="Trained vectors in front of what the encoder reads."
    )
    samples: int = Field(
        0, ge=0, le=1000, description="Answers drawn of each template, which vote as well."
    )
    sample_temperature: float = Field(
        0.7, gt=0, le=100, description="Divides the logits of the answers that are drawn."
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for template in self.templates:
            if "{question}" not in template:
                raise ValueError(f"templates: {template!r} has no {{question}}")
        if self.corpus != "pubmedqa" and self.part != "labelled":
            raise ValueError(f"part: {self.part} is one of PubMedQA's; write corpus: pubmedqa")
        if (self.part == "unlabelled") != (self.pseudo_labels is not None):
            raise ValueError("pseudo_labels goes with part: unlabelled")
        if self.contrast_state == "decoder" and not self.contrast:
            raise ValueError("contrast_state goes with contrast above 0")
        return self

    @property
    def pseudo(self) -> Pseudo | None:
        """Where pseudo labels are, and how sure they must be."""
        return Pseudo(self.pseudo_labels, self.confidence) if self.pseudo_labels else None

    @property
    def words(self) -> dict[str, str]:
        """Each label and its word."""
        if self.labels is not None:
            return self.labels
        return {k: v for k, v in _LABELS.items() if self.corpus != "bioasq" or k != "maybe"}
