"""Protein language models: ESM-2, protein heads, plain sequences to tokens."""

from peftcore import BackboneSpec, FormatSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> BackboneSpec:
    """Return the ESM family; BERTs of proteins (AntiBERTy, ProtBERT) are known as ``bert``."""
    return BackboneSpec(
        name="esm",
        summary="ESM-2 (Lin et al. 2023) and ESM-1b.",
        backbone="peftcore_protein.backbone:Esm",
        matches=("transformers.models.esm.modeling_esm:*",),
        configs=("esm2-8m", "esm2-35m", "esm2-150m", "esm2-650m", "esm2-3b", "esm2-15b"),
    )


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on pairs of proteins and on single ones."""
    return [
        TaskSpec(
            name="protein-ppi",
            summary="Do two proteins interact? (Sledzieski et al. 2023)",
            config="peftcore_protein.tasks:PPIConfig",
            task="peftcore_protein.tasks:ProteinPPI",
            model="peftcore_train.planning:model_of",
        ),
        TaskSpec(
            name="protein-symmetry",
            summary="Quaternary symmetry of a protein, 18 classes. (Sledzieski et al. 2023)",
            config="peftcore_protein.tasks:SymmetryConfig",
            task="peftcore_protein.tasks:ProteinSymmetry",
            model="peftcore_train.planning:model_of",
        ),
    ]


@hookimpl
def peftcore_register_formats() -> list[FormatSpec]:
    """Return FASTA under the endings that it has."""
    reader = "peftcore_protein.fasta:fasta"
    return [
        FormatSpec(ending, "Sequences, each behind a header.", reader)
        for ending in (".fasta", ".fa", ".faa")
    ]
