"""Text encoders: BERT, RoBERTa, DeBERTa, DistilBERT, ELECTRA."""

from peftcore import BackboneSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of text encoders."""
    return [
        BackboneSpec(
            name="bert",
            summary="BERT (Devlin et al. 2019) and models of its architecture.",
            backbone="peftcore_text.backbones:Bert",
            matches=("transformers.models.bert.modeling_bert:*",),
            configs=(
                "bert-base-cased",
                "bert-base-uncased",
                "bert-large-cased",
                "bert-large-uncased",
            ),
        ),
        BackboneSpec(
            name="roberta",
            summary="RoBERTa (Liu et al. 2019), XLM-RoBERTa and CamemBERT.",
            backbone="peftcore_text.backbones:Roberta",
            matches=(
                "transformers.models.roberta.modeling_roberta:*",
                "transformers.models.xlm_roberta.modeling_xlm_roberta:*",
                "transformers.models.camembert.modeling_camembert:*",
            ),
            configs=("roberta-base", "roberta-large", "xlm-roberta-base"),
        ),
        BackboneSpec(
            name="deberta",
            summary="DeBERTa v2 and v3 (He et al. 2021, 2023).",
            backbone="peftcore_text.backbones:Deberta",
            matches=("transformers.models.deberta_v2.modeling_deberta_v2:*",),
            configs=("deberta-v3-small", "deberta-v3-base", "deberta-v3-large"),
        ),
        BackboneSpec(
            name="distilbert",
            summary="DistilBERT (Sanh et al. 2019).",
            backbone="peftcore_text.backbones:DistilBert",
            matches=("transformers.models.distilbert.modeling_distilbert:*",),
            configs=("distilbert-base-uncased",),
        ),
        BackboneSpec(
            name="electra",
            summary="ELECTRA (Clark et al. 2020).",
            backbone="peftcore_text.backbones:Electra",
            matches=("transformers.models.electra.modeling_electra:*",),
            configs=("electra-small", "electra-base", "electra-large"),
        ),
    ]
