"""A task's specification and its configuration."""

import json

import pytest
import yaml

from peftcore import ConfigError, Strict, installed, resolve, validated
from peftcore_train.task import Task
from peftcore_train.testing.on_rows import OnRows


class Described(OnRows):
    """What stands in the plugin and can be read without a model."""

    def test_the_specification_names_a_task(self) -> None:
        spec = installed().find("tasks", self.task)
        assert spec.summary
        made = resolve(spec.task)(self.configuration.model_validate(self.config))
        assert isinstance(made, Task)
        assert made.default_metric in made.metric_names

    def test_every_field_of_the_configuration_is_described(self) -> None:
        assert issubclass(self.configuration, Strict)
        fields = self.configuration.model_fields
        assert not [name for name, info in fields.items() if not info.description]

    def test_the_columns_of_its_rows_are_named(self) -> None:
        spec = installed().find("tasks", self.task)
        columns = resolve(spec.task)(self.configuration.model_validate(self.config)).columns()
        assert columns.inputs, "columns() names no inputs; the data cannot be looked at"
        assert set(columns.answers) == set(self.answers), "columns() names other answers"
        assert columns.label in (None, *columns.answers)
        for rows in self.rows.values():
            for row in rows:
                assert {*columns.inputs, *columns.answers} <= row.keys()

    def test_the_configuration_survives_yaml_and_json(self) -> None:
        config = self.configuration.model_validate(self.config)
        dumped = config.model_dump(mode="json")
        assert self.configuration.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == config
        assert self.configuration.model_validate(json.loads(json.dumps(dumped))) == config

    def test_an_unknown_field_is_refused_with_the_nearest_one(self) -> None:
        for name in self.configuration.model_fields:
            typo = f"{name}x"
            with pytest.raises(ConfigError, match=f"{typo} is not .* Did you mean {name}"):
                validated(self.configuration, {typo: 1}, where="task", label=self.task)
