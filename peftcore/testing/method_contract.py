"""What every method must do, on the toys and on every installed backbone."""

from peftcore.testing.method.computed import Computed
from peftcore.testing.method.described import Described
from peftcore.testing.method.stored import Stored
from peftcore.testing.method.switched import Switched
from peftcore.testing.method.trained import Trained


class MethodContract(Described, Trained, Stored, Switched, Computed):
    """Subclass it, set ``method``, and pytest runs the contract.

    ``pytest -m "not backbones"`` runs the part on toys alone, in seconds. Of several classes of a
    module that test one method with other settings, the first meets every installed backbone, the
    others the toys and those that ``on`` and ``refused_on`` name.

    Attributes:
        method: name of the method.
        config: configuration to test with, on the toy and on every backbone.
        on: further configuration on a backbone, by its name.
        refused_on: pattern of the sentence that refuses a backbone, by its name, where the reason
            is none of the features that the spec needs.
        merges: whether the method can be merged; an error is expected where it cannot.
        merge_tolerance: largest difference between merged and unmerged outputs, fp32.
        steps, learning_rate: training steps in which the toy's loss must fall.
        routes: whether several adapters of it can serve the rows of one batch.
        compiles: whether ``torch.compile(fullgraph=True)`` is expected to work.

    ``merges``, ``routes`` and ``compiles`` may be None, where nobody has said so yet: then a
    sentence that refuses it is as good, and so it is on every backbone.
    """
