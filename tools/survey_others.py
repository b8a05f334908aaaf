"""The systems of the survey that are not on texts: data for tools/survey.py."""

from survey_systems import QV, SELF_AND_CROSS, Count, System

OTHERS: tuple[System, ...] = (
    System(
        "Video and text: AGAdapter (Fang et al. 2023)",
        "CLIP-bigG/14 and LLaMA-7B; MSR-VTT and ActivityNet; 0.12 to 0.5 hours of training.",
        ("peftcore-video", "peftcore-agadapter"),
        recipes=("video-pretrain.yaml", "video-language.yaml", "video-agadapter.yaml"),
        ran="A CLIP and a LLaMA with random weights on moving shapes that a script draws:"
        " [Video](how-to/video.md). No released weights and none of the data sets were at hand.",
        reconstruction="All of it: only the abstract could be read, no code was found.",
    ),
    System(
        "Images: KAdaptation on ELEVATER (He et al. 2023)",
        "0.09 % of CLIP's image tower; 20 data sets.",
        ("peftcore-kadaptation", "peftcore-vision"),
        (
            Count("KAdaptation", "clip-vit-b32", "kadaptation", 50_176, printed="0.09 %"),
            Count(
                "LoRA r=4 on query and value, its comparison",
                "clip-vit-b32",
                [{"method": "lora", "rank": 4, "targets": QV}],
                147_456,
            ),
        ),
        ("elevater-kadaptation.yaml",),
        "On a vision transformer S/14 (real weights) other methods were compared:"
        " [digits](results/digits.md). No weights of CLIP and none of ELEVATER's images were at"
        " hand.",
        wrong=(
            'It stands under "Video Text Generation". It classifies images.',
            "Its 0.09 % count the classifier, 29,523 parameters on the mean of the data sets:"
            " 79,699. Without, it is 0.057 %.",
        ),
    ),
    System(
        "Medical images: sixteen methods (Dutt et al. 2023), FairTune (Dutt et al. 2024)",
        "16 methods, over 600 experiments, gains of up to 22 %.",
        (
            "peftcore-vision",
            "peftcore-fairtune",
            "peftcore-ssf",
            "peftcore-fact",
            "peftcore-tsa",
            "peftcore-svdiff",
            "peftcore-difffit",
            "peftcore-prompt",
        ),
        (
            Count("norms", "vit-b16-224", "norm_tuning", 38_400),
            Count("attention", "vit-b16-224", "attention_tuning", 28_348_416),
            Count("biases", "vit-b16-224", "bitfit", 102_912),
            Count("SSF", "vit-b16-224", "ssf", 205_824),
            Count(
                "LoRA r=8 on query and value",
                "vit-b16-224",
                [{"method": "lora", "rank": 8, "targets": QV}],
                294_912,
            ),
        ),
        ("vision-methods-vit.yaml", "vision-methods-cnn.yaml", "fairtune-faces.yaml"),
        "[Digits](results/digits.md) on a vision transformer S/14 (real weights); FairTune has a"
        " recipe on faces.",
        "Which the sixteen methods and the data sets are could not be read again; the list is from"
        " memory.",
        wrong=("Sixteen and 600 are version 1 of the paper. As published it has 17 and 700.",),
    ),
    System(
        "Proteins (Sledzieski et al. 2023)",
        "No figure of its own.",
        ("peftcore-protein",),
        (
            Count(
                "LoRA r=8 on key and value of the last 8 layers",
                "esm2-650m",
                [
                    {
                        "method": "lora",
                        "rank": 8,
                        "targets": {
                            "roles": ["attention.key", "attention.value"],
                            "layers": "25-32",
                        },
                    }
                ],
                327_680,
            ),
        ),
        ("protein-antiberty.yaml", "compare-antibodies.yaml"),
        "An antibody model (real weights, real sequences):"
        " [regions of a gene](results/antibody-regions.md). No weights of ESM-2 were at hand.",
        wrong=(
            "Its paragraph has the per cents and data sets of the single cells below (0.22, 1.18,"
            " 0.81, 16.66; Zheng68k, Baron). The paper has none of them.",
        ),
    ),
    System(
        "Single cells: scBERT (Liu et al. 2023)",
        "full 100 %, adapter 1.18 %, freezing 16.66 %, BitFit 0.22 %, LoRA 0.81 %.",
        ("peftcore-singlecell", "peftcore-freeze", "peftcore-adapter", "peftcore-bitfit"),
        (
            Count(
                "one of six layers",
                "scbert",
                [{"method": "freeze", "targets": {"roles": ["block"], "layers": "last 1"}}],
                834_000,
                "of_blocks",
                printed="16.66 %",
            ),
            Count(
                "adapter of width 24",
                "scbert",
                [{"method": "pfeiffer", "bottleneck": 24, "act_fn": "gelu", "bias": True}],
                58_944,
                "of_blocks",
                printed="1.18 %",
            ),
            Count(
                "LoRA r=4 on query and value",
                "scbert",
                [{"method": "lora", "rank": 4, "targets": QV}],
                40_320,
                "of_blocks",
                printed="0.81 %",
            ),
            Count("BitFit", "scbert", "bitfit", 9_800, "of_blocks", printed="0.22 %"),
        ),
        ("cells-zheng68k.yaml", "cells-pretrain.yaml", "cells-compare.yaml"),
        "700 real blood cells, a small network from random weights:"
        " [Annotate single cells](tutorial/cells.md). The released checkpoint was not at hand.",
        "Widths and ranks: found by arithmetic from the per cents, for the paper could not be"
        " read.",
        wrong=(
            "The per cents are of the six encoder layers, 5,004,000 parameters, without the table"
            " of genes and the head.",
            "BitFit's 0.22 % is none: all biases are 0.1958 %.",
            "scBERT is cited to the Performer (Choromanski 2022).",
        ),
    ),
    System(
        "Point clouds: Point-PEFT (Tang et al. 2024)",
        "94.2 on ModelNet40, 89.1 on ScanObjectNN; 5 % of 22.1 M parameters.",
        ("peftcore-pointcloud", "peftcore-pointpeft"),
        (),
        (
            "points-modelnet40.yaml",
            "points-scanobjectnn.yaml",
            "points-pretrain.yaml",
            "points-tune.yaml",
        ),
        "A small Point-MAE, pre-trained here on made shapes: [Point"
        " clouds](how-to/point-clouds.md). The released weights were not at hand.",
        wrong=(
            "94.2 and 89.1 are with Point-MAE, which is not named; it names Point-BERT and"
            " Point-M2AE.",
            "773,017 parameters train with the head of 15 classes (505,482 without), 3.5 % and not"
            " 5 %. 22.1 M is the whole classifier. A test of peftcore-pointpeft has the count,"
            " which needs a memory bank.",
        ),
    ),
    System(
        "Emotions in speech: PEFT-SER (Feng and Narayanan 2023)",
        "LoRA 67.3 mean recall on WavLM Base+, adapter 63.07 on wav2vec 2.0 Base.",
        ("peftcore-speech", "peftcore-adapter", "peftcore-prompt", "peftcore-lora"),
        (
            Count(
                "LoRA r=16 on the feed-forward part",
                "wavlm-base-plus",
                [{"method": "lora", "rank": 16, "alpha": 1, "targets": ["mlp.up", "mlp.down"]}],
                1_474_560,
            ),
            Count(
                "adapter of width 128",
                "wavlm-base-plus",
                [
                    {
                        "method": "ser_adapter",
                        "released": True,
                        "targets": ["path:encoder.layers.*.layer_norm", "mlp.down"],
                    }
                ],
                2_370_048,
            ),
            Count("five prompts a layer", "wavlm-base-plus", "embedding_prompt", 46_080),
        ),
        ("ser-iemocap.yaml", "spoken-clips.yaml"),
        "Whisper tiny.en's encoder (real weights) has a recipe on real clips, `spoken-clips.yaml`."
        " IEMOCAP and its kin need a licence; they were read in miniature.",
        wrong=(
            'It stands under "Speech Synthesis", with a stray "63.07\'%\'". It recognises'
            " emotions.",
            'wav2vec 2.0 is cited to Whisper (Radford 2022), and "SER datasets" to Houlsby 2019.',
        ),
    ),
    System(
        "Children's speech: S2-LoRA on Whisper (Liu et al. 2024)",
        "as little as 0.02 % of the parameters.",
        ("peftcore-s2lora", "peftcore-speech"),
        (
            Count(
                "rank 32 on all projections of attention",
                "whisper-small",
                [{"method": "s2lora", "rank": 32, "targets": SELF_AND_CROSS}],
                53_760,
                printed="0.02 %",
            ),
        ),
        ("whisper-s2lora.yaml", "spoken-codes.yaml"),
        "Whisper tiny.en (real weights), not tuned, on spoken codes: [Speech](how-to/speech.md);"
        " `spoken-codes.yaml` tunes it.",
        "All of it: only the abstract could be read. The count is that of our design.",
        wrong=('"Child whisper recognition" is the recognition of children\'s speech by Whisper.',),
    ),
    System(
        "The four open problems: one method for many tasks, privacy, few labels, interpretation",
        "No figures.",
        ("peftcore-meta", "peftcore-private", "peftcore-active", "peftcore-interpret"),
        recipes=(
            "meta-sentiment.yaml",
            "compose-sentiment.yaml",
            "private-movies.yaml",
            "federated-movies.yaml",
            "active-movies.yaml",
        ),
        ran="MiniLM and AntiBERTy (real weights), in small: [Few rows](how-to/few-rows.md),"
        " [Private training](how-to/private-training.md), [Active learning]"
        "(how-to/active-learning.md), [Interpret](how-to/interpret.md).",
    ),
)
