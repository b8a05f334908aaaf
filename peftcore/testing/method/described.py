"""A method's plugin, its specification and its configuration."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from peftcore.registry.installed import installed
from peftcore.registry.records import HERE
from peftcore.testing.configuration import (
    check_described,
    check_round_trip,
    check_unknown_field,
)
from peftcore.testing.imports import heavy_imports, hidden_names, package_of
from peftcore.testing.method.on_toy import OnToy


class Described(OnToy):
    """What stands in the plugin and can be read without a model."""

    def test_the_plugin_module_imports_without_torch(self) -> None:
        owner = installed().owner("methods", self.method)
        if owner.distribution in ("peftcore", HERE):
            pytest.skip("the method is of this process alone")
        imported = heavy_imports(owner.distribution)
        assert not imported, f"the plugin of {self.method} imports {imported}"

    def test_the_plugin_imports_public_names_of_peftcore_alone(self) -> None:
        spec = installed().methods[self.method]
        hidden = hidden_names(package_of(spec.method)) + hidden_names(package_of(spec.config))
        assert not hidden, hidden[0]

    def test_every_field_of_the_configuration_is_described(self) -> None:
        check_described(self.model(), self.method)

    def test_the_configuration_survives_yaml_and_json(self) -> None:
        check_round_trip(self.model(), self.config)

    def test_an_unknown_field_is_refused_with_the_nearest_one(self) -> None:
        check_unknown_field(self.model(), self.method)

    def model(self) -> type[BaseModel]:
        """Return the pydantic model of the configuration."""
        found: type[BaseModel] = installed().resolve("methods", self.method, "config")
        return found
