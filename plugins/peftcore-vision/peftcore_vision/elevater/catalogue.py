"""The 20 data sets of ELEVATER as its registry describes them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from peftcore_train.schema import Split

#: The benchmark's metrics, and what the task calls them.
METRICS = {
    "accuracy": "accuracy",
    "mean-per-class": "mean_per_class",
    "roc_auc": "auroc",
    "11point_mAP": "map_11_anchored",
}
_ACC, _MEAN, _AUC, _MAP = METRICS
_PLAIN: Mapping[Split, str] = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        folder: its folder under ``classification``.
        classes: number of classes.
        sizes: images for training, for validation (0 for none), and to test.
        metric: the benchmark's metric.
        indexes: index file of each split.
        labels: file of the names of classes; of none the index files name them.
    """

    folder: str
    classes: int
    sizes: tuple[int, int, int]
    metric: str = _ACC
    indexes: Mapping[Split, str] = field(default_factory=lambda: _PLAIN)
    labels: str | None = "labels.txt"

    @property
    def multi_label(self) -> bool:
        """Whether an image has several classes."""
        return self.metric == _MAP


def _indexes(train: str, validation: str, test: str) -> Mapping[Split, str]:
    return {"train": train, "validation": validation, "test": test}


_VALID = _indexes("train.txt", "valid.txt", "test.txt")

DATA_SETS: dict[str, DataSet] = {
    "caltech-101": DataSet("caltech_101_20211007", 102, (3060, 0, 6084), _MEAN),
    "cifar-10": DataSet("cifar_10_20211007", 10, (50000, 0, 10000)),
    "cifar-100": DataSet(
        "cifar100_20200721", 100, (50000, 0, 10000),
        indexes=_indexes("train_images.txt", "", "test_images.txt"),
    ),
    "country211": DataSet(
        "country211_20210924", 211, (31650, 10550, 21100), indexes=_VALID
    ),
    "dtd": DataSet("dtd_20211007", 47, (1880, 1880, 1880)),
    "eurosat_clip": DataSet("eurosat_clip_20210930", 10, (5000, 5000, 5000)),
    "fer-2013": DataSet("fer_2013_20211008", 7, (28709, 3589, 3589)),
    "fgvc-aircraft-2013b-variants102": DataSet(
        "fgvc_aircraft_2013b_variants102_20211007", 100, (3334, 3333, 3333), _MEAN
    ),
    "oxford-flower-102": DataSet("oxford_flower_102_20211007", 102, (1020, 1020, 6149), _MEAN),
    "food-101": DataSet("food_101_20211007", 101, (75750, 0, 25250)),
    "gtsrb": DataSet("gtsrb_20210923", 43, (26640, 12569, 12630), labels="labelmap.txt"),
    "hateful-memes": DataSet(
        "hateful_memes_20211014", 2, (8500, 0, 500), _AUC,
        _indexes("train_meta.json", "", "test_meta.json"), None,
    ),
    "kitti-distance": DataSet(
        "kitti_distance_20210923", 4, (6347, 423, 711), _ACC,
        _indexes("train_meta.json", "validation_meta.json", "test_meta.json"), None,
    ),
    "mnist": DataSet("mnist_20211008", 10, (60000, 0, 10000)),
    "oxford-iiit-pets": DataSet("oxford_iiit_pets_20211007", 37, (3680, 0, 3669), _MEAN),
    "patch-camelyon": DataSet("patch_camelyon_20211007", 2, (262144, 32768, 32768)),
    "rendered-sst2": DataSet(
        "rendered_sst2_20210924", 2, (6920, 827, 1821), indexes=_VALID
    ),
    "resisc45_clip": DataSet(
        "resisc45_clip_20210924", 45, (3150, 3150, 25200), _ACC,
        _indexes("train.json", "val.json", "test.json"), None,
    ),
    "stanford-cars": DataSet("stanford_cars_20211007", 196, (8144, 0, 8041)),
    "voc-2007-classification": DataSet(
        "voc2007_20211007", 20, (2501, 2510, 4952), _MAP,
        _indexes("train_ic.txt", "val_ic.txt", "test_ic.txt"),
    ),
}  # fmt: skip
