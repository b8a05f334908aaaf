"""Table 3 of the survey, and what is wrong outside of its tables: data for tools/survey.py."""

#: Table 3 of the survey, by method: reduction and memory as printed, and what ours are of.
TABLE_3: tuple[tuple[str, str, str, str], ...] = (
    ("full fine-tuning (ViT-B/16, BARD)", "0", "33 B", "ViT-B/16 has 85.8 M parameters"),
    ("adapters", "75 to 85 %", "", "series {series}, parallel {parallel} on LLaMA-7B"),
    ("LoRA", "90 %", "", "rank 32: {lora} on LLaMA-7B"),
    ("LoReFT", "70 to 90 %", "", "{loreft} on LLaMA-7B, by its own Table 1"),
    ("prefix tuning", "65 %", "", "30 tokens: {prefix} on LLaMA-7B"),
    ("BitFit", "95 %", "", "99.9 % on BERT-base and on ViT-B/16 (102,912 parameters each)"),
    ("sparse, 40 % pruning", "60 %", "13.2 B", "here p is what is kept"),
    ("sparse, 80 % pruning", "80 %", "6.6 B", "here p is what is removed"),
)
#: What is wrong elsewhere.
GENERAL: tuple[str, ...] = (
    "All cells of Table 3's memory are 33 B times what the reduction leaves, in parameters, though"
    " they are called memory.",
    "Table 3 cites papers on other things: observations of discs for adapters, the topology of"
    " hypergraphs for LoRA, FI-modules for sparse tuning, population games for full tuning,"
    " open-set learning for prefix tuning.",
    "Full fine-tuning is said to discard what a model knows and to start from scratch. It starts"
    " from the pretrained weights.",
)
