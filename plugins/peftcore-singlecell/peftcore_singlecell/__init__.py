"""Single cells: scBERT, the annotation of cell types, and masked expression."""

from peftcore import BackboneSpec, CommandSpec, FormatSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> BackboneSpec:
    """Return scBERT."""
    return BackboneSpec(
        name="scbert",
        summary="scBERT (Yang et al. 2022), a Performer over the expression of genes.",
        backbone="peftcore_singlecell.backbone:ScBertBackbone",
        matches=("peftcore_singlecell.model:ScBert",),
        configs=("scbert",),
    )


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on cells."""
    return [
        TaskSpec(
            name="cell-type",
            summary="The type of a cell by the expression of its genes, from .h5ad.",
            config="peftcore_singlecell.cell_type:CellTypeConfig",
            task="peftcore_singlecell.cell_type:CellType",
        ),
        TaskSpec(
            name="masked-expression",
            summary="Predict the binned expression of genes that were masked at random.",
            config="peftcore_singlecell.masked:MaskedExpressionConfig",
            task="peftcore_singlecell.masked:MaskedExpression",
        ),
    ]


@hookimpl
def peftcore_register_formats() -> FormatSpec:
    """Return the format of anndata, whose observations are rows."""
    return FormatSpec(
        ending=".h5ad",
        summary="Annotated cells: a row of obs each; the matrix stays on disk.",
        reader="peftcore_singlecell.annotated:h5ad",
    )


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands on cells."""
    return [
        CommandSpec(
            name="cells",
            summary="Write counts of 10x, of CSV tables or of an .h5ad as an .h5ad to train on.",
            command="peftcore_singlecell.cli:cells",
        ),
        CommandSpec(
            name="scbert",
            summary="Write an scBERT of random weights over the genes of a file.",
            command="peftcore_singlecell.cli:scbert",
        ),
    ]
