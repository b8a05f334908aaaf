"""The systems of the survey: what it prints of each, what we count, and what has run.

Data for tools/survey.py, which plans every count again; those on texts stand here. A system that
gets a recipe, a count or a run gets a line.
"""

from typing import Any, NamedTuple

QV = ["attention.query", "attention.value"]
SELF_AND_CROSS = ["attention.*", "cross_attention.*"]


class Count(NamedTuple):
    """A number of trainable parameters.

    Attributes:
        what: what is counted.
        size: named size of the backbone.
        methods: what is put on it.
        count: trainable parameters, of the methods alone.
        of: convention of the per cent.
        head: which head the backbone has.
        options: of building it.
        printed: what the survey prints for it, if it does.
    """

    what: str
    size: str
    methods: Any
    count: int
    of: str = "of_base"
    head: str = "none"
    options: dict[str, Any] = {}
    printed: str = ""


class System(NamedTuple):
    """A system of the survey.

    Attributes:
        title: what it does, and whose it is.
        prints: what the survey says of it, in numbers.
        plugins: distributions that make it.
        counts: our counts.
        recipes: files of examples/.
        ran: what was run here, on what weights, with a link to what came out.
        reconstruction: what is a reconstruction, or nothing.
        wrong: where the survey contradicts its sources.
    """

    title: str
    prints: str
    plugins: tuple[str, ...]
    counts: tuple[Count, ...] = ()
    recipes: tuple[str, ...] = ()
    ran: str = ""
    reconstruction: str = ""
    wrong: tuple[str, ...] = ()


SYSTEMS: tuple[System, ...] = (
    System(
        "Commonsense, arithmetic, GLUE and instructions: LoReFT (Wu et al. 2024)",
        "Tables 1 and 2, above.",
        ("peftcore-reasoning", "peftcore-loreft", "peftcore-llm", "peftcore-text"),
        (
            Count(
                "UltraFeedback, rank 4, four layers, untied",
                "llama-2-7b",
                [
                    {
                        "method": "loreft",
                        "rank": 4,
                        "positions": "f5+l5",
                        "share_weights": False,
                        "targets": {"roles": ["block"], "layers": "3;9;18;24"},
                    }
                ],
                262_176,
                head="causal-lm",
            ),
            Count(
                "GLUE, rank 1, first token",
                "roberta-base",
                [{"method": "loreft", "rank": 1, "positions": "f1"}],
                18_444,
                head="sequence-classification",
                options={"num_labels": 2},
            ),
        ),
        (
            "commonsense-llama.yaml",
            "arithmetic-llama.yaml",
            "ultrafeedback-llama2.yaml",
            "glue-roberta.yaml",
            "compare-sums.yaml",
        ),
        "SmolLM2-135M (real weights) on word problems made by a rule, so far one arm in small:"
        " LoRA, 64 problems, one seed, 17 of 32 right where the frozen model has none ([how"
        " to](how-to/reasoning.md#a-run-that-fits-a-laptop)); `compare-sums.yaml` is the whole run."
        " LoReFT among fifteen methods on a sentence encoder (real weights, real sentences): [film"
        " reviews](results/movie-sentiment.md). No LLaMA weights were at hand: its rows are"
        " planned, not trained.",
        wrong=(
            'It says that ReFT modifies "a subset of model weights". No weight changes: hidden'
            " vectors are edited. Its formula of the interchange intervention lost its operators;"
            " it reads b + Rᵀ(R s - R b).",
        ),
    ),
    System(
        "LoRA, DoRA, series and parallel adapters, prefixes (Hu et al. 2023; Liu et al. 2024)",
        "Tables 1 and 2, above.",
        ("peftcore-lora", "peftcore-dora", "peftcore-adapter", "peftcore-prefix"),
        (),
        ("commonsense-llama.yaml", "arithmetic-llama.yaml", "compare-sums.yaml"),
        "As above; every method also for 40 steps on real weights:"
        " [bench/real_runs.md](../bench/real_runs.md).",
        wrong=(
            'DoRA is expanded as "Differentiable Rank Adaptation". It is Weight-Decomposed'
            " Low-Rank Adaptation: magnitude and direction apart, and no rank is differentiated.",
            "LLaMA-13B's prefix trains 0.030 % in Table 1 and 0.300 % in Table 2. Ten tokens are"
            " 0.0315 %; nothing usual is 0.300 %. Prefix tuning is cited to PIQA (Bisk 2019).",
            "The released command of the series adapter trains gate and up projection, 134,217,728"
            " parameters or 1.95 % of LLaMA-7B. The 0.99 % of the table are those of the down"
            " projection.",
        ),
    ),
    System(
        "Questions on medicine: T5 in stages (Wang et al. 2023)",
        "0.152 % of the parameters; PubMedQA and BioASQ; comparable to GPT-4.",
        ("peftcore-biomedqa", "peftcore-text"),
        (
            Count(
                "LoRA r=4 on query and value; ten soft prompts make it 1,189,888",
                "flan-t5-large",
                [
                    {
                        "method": "lora",
                        "rank": 4,
                        "targets": [*QV, "cross_attention.query", "cross_attention.value"],
                    }
                ],
                1_179_648,
                head="seq2seq-lm",
                printed="0.152 %",
            ),
        ),
        (
            "biomedqa-1-artificial.yaml",
            "biomedqa-2-pseudo.yaml",
            "biomedqa-3-labelled.yaml",
            "biomedqa-bioasq.yaml",
        ),
        "Small random T5s, in tests; no weights of T5 were at hand, so nothing is known of how well"
        " it answers.",
        reconstruction="All of it: only the abstract could be read. 1,189,888 parameters of"
        " Flan-T5-large (783,150,080), LoRA of rank 4 on query and value and ten soft prompts, are"
        " 0.1519 %; that is our choice among several that would print 0.152.",
        wrong=("The 0.152 % is printed without the size of the model.",),
    ),
    System(
        "Code review: LLaMA-Reviewer (Lu et al. 2023)",
        "Necessity: precision 60.99, recall 83.50, F1 70.49. Comments: BLEU-4 5.70 and 5.04."
        " Refinement: 82.27 and 78.23. Under 1 % of the parameters.",
        ("peftcore-code", "peftcore-llama-adapter", "peftcore-lora"),
        (
            Count(
                "LLaMA-Adapter, 10 prompts in 30 layers",
                "llama-7b",
                "llama_adapter",
                1_229_760,
                head="causal-lm",
                printed="< 1 %",
            ),
            Count(
                "LoRA r=8 on query and value",
                "llama-7b",
                [{"method": "lora", "rank": 8, "targets": QV}],
                4_194_304,
                head="causal-lm",
                printed="< 1 %",
            ),
            Count(
                "LoRA r=16 on query and value",
                "llama-7b",
                [{"method": "lora", "rank": 16, "targets": QV}],
                8_388_608,
                head="causal-lm",
                printed="< 1 %",
            ),
        ),
        recipes=(
            "code-instruct.yaml",
            "code-review-llama-adapter.yaml",
            "code-review-lora.yaml",
            "compare-refinement.yaml",
        ),
        ran="SmolLM2-135M (real weights) on docstrings of Python's library, by"
        " `compare-docstrings.yaml`, and on refinements made from it, by"
        " `compare-refinement.yaml`. No CodeLLaMA was at hand.",
        reconstruction="Hyper-parameters: from memory. Formats and the BLEU are CodeReviewer's"
        " public code.",
        wrong=(
            '"Fagan Fang et al. (2023) ... 1976" is Fagan 1976. The F1 agrees with precision and'
            " recall: 2 P R / (P + R) = 70.49.",
        ),
    ),
)
