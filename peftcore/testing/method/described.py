"""A method's plugin, its specification and its configuration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from peftcore.errors import ConfigError
from peftcore.registry.installed import installed
from peftcore.registry.records import HERE
from peftcore.registry.references import resolve
from peftcore.schema import validated
from peftcore.testing.imports import hidden_names, package_of
from peftcore.testing.method.on_toy import OnToy


class Described(OnToy):
    """What stands in the plugin and can be read without a model."""

    def test_the_plugin_module_imports_without_torch(self) -> None:
        owner = installed().owner("methods", self.method)
        if owner.distribution in ("peftcore", HERE):
            pytest.skip("the method is of this process alone")
        code = (
            "import sys; from peftcore import installed; "
            f"assert {self.method!r} in installed().methods, installed().records; "
            "heavy = {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules); "
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def test_the_plugin_imports_public_names_of_peftcore_alone(self) -> None:
        spec = installed().methods[self.method]
        hidden = hidden_names(package_of(spec.method)) + hidden_names(package_of(spec.config))
        assert not hidden, hidden[0]

    def test_every_field_of_the_configuration_is_described(self) -> None:
        fields = resolve(installed().methods[self.method].config).model_fields
        bare = [name for name, info in fields.items() if not info.description]
        assert not bare, f"{self.method}: fields without a description: {', '.join(bare)}"

    def test_the_configuration_survives_yaml_and_json(self) -> None:
        model = resolve(installed().methods[self.method].config)
        config = model.model_validate(self.config)
        dumped = config.model_dump(mode="json")
        assert model.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == config
        assert model.model_validate(json.loads(json.dumps(dumped))) == config
        assert model.model_json_schema()["type"] == "object"

    def test_an_unknown_field_is_refused_with_the_nearest_one(self) -> None:
        model = resolve(installed().methods[self.method].config)
        name = next((name for name in model.model_fields if len(name) > 2), "rank")
        typo = name[:-2] + name[-1] + name[-2] + "x"
        with pytest.raises(ConfigError, match=f"{typo} is not a field of {self.method}"):
            validated(model, {typo: 1}, where="methods[0]", label=self.method)
