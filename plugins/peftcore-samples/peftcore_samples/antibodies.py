"""Human antibody germline genes with the region of each residue by IMGT, out of tidytcells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch
from peftcore_samples.splits import Row, write_splits

_TABLE = "tidytcells/_resources/homosapiens_ig_aa_sequences.json"
#: Framework and complementarity-determining regions in their order; what follows is the third.
_REGIONS = ("FR1", "CDR1", "FR2", "CDR2", "FR3")
_RESIDUES = re.compile("[ACDEFGHIKLMNPQRSTVWY]+")
#: The distal copy of a kappa gene, IGKV1D-39, is the same protein as IGKV1-39 or nearly so.
_DISTAL = re.compile(r"^(IG[HKL]V\d+)D(?=-)")

TIDYTCELLS = Package(
    name="tidytcells",
    version="2.2.1",
    sha256="27a672ba07af306b2be5e8fcc307cf0a9ea7dcf603b1e33868d041b90d0f44c4",
    size="0.1 MB",
    licence="MIT",
    files={_TABLE: "6c68660f334679093b33da2aab50a05ed072771b030e6447cbecf25c641ab874"},
)


def regions() -> Path:
    """Return the folder of the V genes with the region of each residue."""
    return cached(f"antibody-regions-{TIDYTCELLS.version}-r1", _build)


def _build(target: Path, scratch: Path) -> None:
    table = (fetch(TIDYTCELLS, scratch) / _TABLE).read_text("utf-8")
    write_splits(labelled(table), target)


def labelled(table: str) -> Iterator[tuple[str, Row]]:
    """Yield gene and row for every V sequence once, where its regions are given and plain residues.

    Args:
        table: JSON of an allele's name to its regions, such as ``CDR1-IMGT`` and ``V-REGION``.
    """
    seen = set()
    for allele, parts in json.loads(table).items():
        found = [parts.get(f"{region}-IMGT", "") for region in _REGIONS]
        sequence, known = parts.get("V-REGION", ""), "".join(found)
        whole = all(found) and sequence.startswith(known) and _RESIDUES.fullmatch(sequence)
        if whole and sequence not in seen:
            seen.add(sequence)
            rest = sequence[len(known) :]
            pairs = zip((*_REGIONS, "CDR3"), (*found, rest), strict=True)
            labels = [region for region, part in pairs for _ in part]
            yield (
                _DISTAL.sub(r"\1", allele.partition("*")[0]),
                {"gene": allele, "sequence": sequence, "labels": labels},
            )
