"""The contract of tasks as a whole."""

from peftcore_train.testing.damaged import Damaged
from peftcore_train.testing.described import Described
from peftcore_train.testing.scored import Scored
from peftcore_train.testing.trained import Trained


class TaskContract(Described, Trained, Scored, Damaged):
    """Subclass it, say what the task is, and pytest runs the contract::

        class TestMyTask(TaskContract):
            task = "my-task"
            rows = {"train": [{"text": "fine", "label": 1}, ...], "validation": ..., "test": ...}
            answers = ("label",)

            @pytest.fixture(scope="class")
            @classmethod
            def source(cls, tmp_path_factory): ...

    Attributes:
        task: name of the task.
        config: what else the recipe's ``task`` section says.
        rows: columns of the rows of each split; 6 to 20 for training, of unequal lengths.
        answers: columns that a row to predict does not have.
        empty: columns that may be empty, since nothing is an answer too.
        predicts: whether the task can predict.
        weighted: whether rows weigh differently in the loss of training, unlike in the metric.
        compares: whether the loss compares the rows of a batch with one another, so that it is no
            mean of what each is worth; scores are each row's own all the same.
        methods: what is trained; the kit's probe, a change of every linear, by default.
        epochs, learning_rate: with which the training rows, 20 times each, are learned by heart.
        remembered: part of the loss of the first epoch that may be left after the last one.
    """
