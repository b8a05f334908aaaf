"""Text encoders, BERT, RoBERTa, DeBERTa, DistilBERT, ELECTRA, and with a decoder T5 and BART."""

from peftcore import BackboneSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of text encoders, with and without a decoder."""
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
        BackboneSpec(
            name="t5",
            summary="T5 (Raffel et al. 2020), T5 1.1, FLAN-T5 and mT5: encoder and decoder.",
            backbone="peftcore_text.seq2seq:T5",
            matches=(
                "transformers.models.t5.modeling_t5:*",
                "transformers.models.mt5.modeling_mt5:*",
            ),
            configs=(
                "t5-small",
                "t5-base",
                "t5-large",
                "t5-3b",
                "t5-11b",
                "flan-t5-small",
                "flan-t5-base",
                "flan-t5-large",
                "flan-t5-xl",
                "flan-t5-xxl",
            ),
        ),
        BackboneSpec(
            name="bart",
            summary="BART (Lewis et al. 2020): encoder and decoder.",
            backbone="peftcore_text.seq2seq:Bart",
            matches=("transformers.models.bart.modeling_bart:*",),
            configs=("bart-base", "bart-large"),
        ),
    ]
