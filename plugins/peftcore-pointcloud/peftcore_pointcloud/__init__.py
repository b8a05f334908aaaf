"""Point clouds: Point-MAE, Point-BERT, Point-M2AE, and tasks on clouds."""

from peftcore import BackboneSpec, CommandSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of networks on point clouds."""
    return [
        BackboneSpec(
            name="point-transformer",
            summary="Point-MAE (Pang et al. 2022), Point-BERT (Yu et al. 2022): point clouds.",
            backbone="peftcore_pointcloud.backbone:PointTransformers",
            matches=(
                "peftcore_pointcloud.networks:PointTransformer",
                "peftcore_pointcloud.masked:MaskedAutoencoder",
            ),
            configs=("point-mae", "point-bert"),
        ),
        BackboneSpec(
            name="point-m2ae",
            summary="Point-M2AE (Zhang et al. 2022), three scales on point clouds.",
            backbone="peftcore_pointcloud.backbone:PointM2AEs",
            matches=(
                "peftcore_pointcloud.networks:PointM2AE",
                "peftcore_pointcloud.masked_scales:MaskedScales",
            ),
            configs=("point-m2ae",),
        ),
    ]


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on clouds."""
    return [
        TaskSpec(
            name="point-classification",
            summary="One label for a cloud: ModelNet40, ScanObjectNN, folders, tables of paths.",
            config="peftcore_pointcloud.classification:PointClassificationConfig",
            task="peftcore_pointcloud.classification:PointClassification",
        ),
        TaskSpec(
            name="point-reconstruction",
            summary="Pre-training of Point-MAE and Point-M2AE: hidden groups from the others.",
            config="peftcore_pointcloud.reconstruction:PointReconstructionConfig",
            task="peftcore_pointcloud.reconstruction:PointReconstruction",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that writes clouds into files that are quick to read."""
    return CommandSpec(
        name="clouds",
        summary="Write the clouds of a release into one h5 file for each split.",
        command="peftcore_pointcloud.cli:clouds",
    )
