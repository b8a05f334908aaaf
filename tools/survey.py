"""Write docs/survey.md: ``python tools/survey.py``.

Its data stand in survey_systems.py, survey_others.py and survey_table3.py. Every count is planned
again first, and one that differs stops it. tests/test_survey.py says where the page is stale.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from survey_others import OTHERS
from survey_systems import SYSTEMS as ON_TEXTS, Count, System
from survey_table3 import GENERAL, TABLE_3

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "survey.md"

SYSTEMS = (*ON_TEXTS, *OTHERS)
#: Parameters of the backbones, for per cents.
BASES = {
    "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-2-7b": 6_738_415_616,
    "roberta-base": 124_647_170, "clip-vit-b32": 87_849_216, "vit-b16-224": 85_798_656,
    "esm2-650m": 651_040_661, "scbert": 5_004_000, "wavlm-base-plus": 94_381_936,
    "whisper-small": 241_734_912, "flan-t5-large": 783_150_080,
}  # fmt: skip
#: Rows of Tables 1 and 2.
LLAMA = {
    "llama-7b": {
        "prefix": 7_864_320, "series": 67_108_864, "parallel": 247_463_936, "lora": 56_098_816,
        "dora-half": 28_925_952, "dora": 56_975_360, "loreft": 2_097_408,
    },
    "llama-13b": {
        "prefix": 4_096_000, "series": 104_857_600, "parallel": 387_973_120, "lora": 87_818_240,
        "dora-half": 45_281_280, "dora": 89_190_400, "loreft": 3_277_120,
    },
}  # fmt: skip


def percent(count: int, base: int, of: str) -> float:
    """Return a count as per cent of a backbone, or of backbone and count."""
    return 100 * count / (base + count if of == "of_total" else base)


def written() -> str:
    """Return the page."""
    parts = [*_head(), *_tables(), *_table_3()]
    parts += ["## The systems", ""]
    for system in SYSTEMS:
        parts += _system(system)
    parts += ["## What else is wrong", "", *(f"- {text}" for text in GENERAL)]
    return "\n".join(parts) + "\n"


def _head() -> list[str]:
    return [
        "# The survey, system by system",
        "",
        "<!-- written by python tools/survey.py; its data stand beside it -->",
        "Balne et al. 2024 ([arXiv:2404.13506](https://arxiv.org/abs/2404.13506)) tells of the"
        " systems below. For each this page says what the survey prints,",
        "what our plan counts, which recipe trains it, what was run here on which weights, what is"
        " a reconstruction, and where the survey contradicts its",
        "sources. Counts are of methods; heads come on top. Scores of papers are quoted, none of"
        " them was reproduced here unless a run is named.",
        "",
        "`of_total` is k / (N0 + k), `of_base` k / N0, `of_blocks` of the encoder's blocks alone:"
        ' [what "faithful" means](explanation/faithful.md#percentages).',
        "",
    ]


def _tables() -> Iterator[str]:
    from peftcore_reasoning import published

    for table, name in ((1, "commonsense"), (2, "arithmetic")):
        yield f"## Table {table}: {name}"
        yield ""
        yield f"`peftcore survey --table {table}` plans these rows;"
        yield f"[examples/{name}-llama.yaml](../examples/{name}-llama.yaml) trains them."
        yield f"Scores are printed ones, of {', '.join(published.SETS[table])};"
        yield "those of LLM-Adapters and of DoRA (half) on 7B were compared with the authors'"
        yield "repositories, the others are from memory. Each average is the mean of its row."
        yield ""
        yield "| model | row | printed % | our % | of | trainable | scores | average |"
        yield "|---|---|---|---|---|---|---|---|"
        notes = []
        for size in LLAMA:
            for arm, (scores, average) in published.SCORES[table, size].items():
                label, count = published.METHODS[arm][0], LLAMA[size][arm]
                printed = published.ELSEWHERE.get((table, size, arm), published.PRINTED[size][arm])
                of = "of_base" if arm == "loreft" else "of_total"
                ours = percent(count, BASES[size], of)
                shown = " ".join(map(str, scores))
                yield (
                    f"| {size} | {label} | {printed} | {ours:.4f} | {of} | {count:,} | {shown} |"
                    f" {average} |"
                )
                if verdict := published.verdict_of(printed, ours):
                    notes.append(f"- {size}, {label}: {printed} % is {verdict}.")
        yield ""
        yield from notes
        yield ""


def _table_3() -> Iterator[str]:
    saved = {
        arm: f"{100 - percent(count, BASES['llama-7b'], 'of_total'):.2f} %"
        for arm, count in LLAMA["llama-7b"].items()
    }
    yield "## Table 3: reductions"
    yield ""
    yield "No source gives these figures, and the closed forms give others; it is no target."
    yield ""
    yield "| row | reduction | memory | what the counts say |"
    yield "|---|---|---|---|"
    for row, reduction, memory, ours in TABLE_3:
        yield f"| {row} | {reduction} | {memory or '-'} | {ours.format(**saved)} |"
    yield ""


def _system(system: System) -> Iterator[str]:
    yield f"### {system.title}"
    yield ""
    yield f"**The survey prints**: {system.prints}"
    yield ""
    if system.counts:
        yield "| | backbone | trainable | % | of | printed |"
        yield "|---|---|---|---|---|---|"
        for one in system.counts:
            share = percent(one.count, BASES[one.size], one.of)
            yield (
                f"| {one.what} | {one.size} | {one.count:,} | {share:.4f} | {one.of} |"
                f" {one.printed or '-'} |"
            )
        yield ""
    there = [name for name in system.plugins if (ROOT / "plugins" / name).is_dir()]
    lacking = [name for name in system.plugins if name not in there]
    made = [f"[{name}](../plugins/{name}/README.md)" for name in there]
    made += [f"{name} (not here yet)" for name in lacking]
    yield f"- **Made by** {', '.join(made)}"
    recipes = ", ".join(f"[{name}](../examples/{name})" for name in system.recipes)
    yield f"- **Recipes**: {recipes or 'none yet'}"
    yield f"- **Ran**: {system.ran or 'nothing yet'}"
    if system.reconstruction:
        yield f"- **A reconstruction**: {system.reconstruction}"
    for text in system.wrong:
        yield f"- **Wrong in the survey**: {text}"
    yield ""


def planned(one: Count) -> Any:
    """Return the plan of a count."""
    import peftcore
    from peftcore import build_on_meta

    return peftcore.plan(build_on_meta(one.size, head=one.head, **one.options), one.methods)


def differences() -> Iterator[str]:
    """Yield every count that our plans do not have."""
    from peftcore_reasoning import published

    for line in published.lines():
        if line.trainable != LLAMA[line.size][line.arm]:
            yield f"{line.size} {line.arm}: {line.trainable:,}"
    for system in SYSTEMS:
        for one in system.counts:
            plan = planned(one)
            base = plan.blocks_base if one.of == "of_blocks" else plan.base
            if (plan.trainable, base) != (one.count, BASES[one.size]):
                yield f"{system.title}: {one.what}: {plan.trainable:,} of {base:,}"


def main() -> None:
    """Plan every count, and write the page."""
    if wrong := list(differences()):
        sys.exit("our plans have other counts:\n" + "\n".join(wrong))
    PAGE.write_text(written(), "utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
