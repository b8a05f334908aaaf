"""What every plugin must be, whatever it brings."""

from __future__ import annotations

from typing import ClassVar

import pytest

from peftcore.registry.checking import KINDS, REFERENCE_FIELDS
from peftcore.registry.installed import installed
from peftcore.registry.records import HERE, PluginRecord
from peftcore.testing import kit
from peftcore.testing.configuration import (
    check_described,
    check_round_trip,
    check_unknown_field,
    has_defaults,
)
from peftcore.testing.imports import heavy_imports, hidden_names, package_of


class PluginContract:
    """Subclass it, set ``plugin``, and pytest runs the contract.

    ``peftcore test`` runs it beside the contract of each thing that the plugin brings.

    Attributes:
        plugin: name of the distribution, or (distribution, entry point) where it has several.
    """

    plugin: ClassVar[str | tuple[str, str]]

    def record(self) -> PluginRecord:
        """Return the plugin's record."""
        kit.register_kit()
        names = self.plugin if isinstance(self.plugin, tuple) else (self.plugin,)
        found = [r for r in installed().records if set(names) <= {r.distribution, r.name}]
        assert found, f"no plugin {' '.join(names)} is installed"
        return found[0]

    def brought(self) -> list[tuple[str, str]]:
        """Return (kind, name) of all that it brings."""
        return [(kind, name) for kind, names in self.record().provides.items() for name in names]

    def test_it_can_be_used(self) -> None:
        record = self.record()
        assert record.status == "ok", record.why_not()
        assert self.brought(), "it brings nothing"

    def test_it_is_found_without_heavy_imports(self) -> None:
        record = self.record()
        if record.distribution in ("peftcore", HERE):
            pytest.skip("it is a plugin of this process alone")
        imported = heavy_imports(record.distribution)
        assert not imported, f"it imports {imported}"

    def test_everything_that_it_names_can_be_imported(self) -> None:
        for kind, name in self.brought():
            spec = getattr(installed(), kind)[name]
            for field in (f for f in REFERENCE_FIELDS if getattr(spec, f, "")):
                installed().resolve(kind, name, field)

    def test_it_imports_public_names_of_peftcore_alone(self) -> None:
        specs = [getattr(installed(), kind)[name] for kind, name in self.brought()]
        references = {getattr(s, f) for s in specs for f in REFERENCE_FIELDS if getattr(s, f, "")}
        hidden = [h for p in {package_of(r) for r in references} for h in hidden_names(p)]
        assert not hidden, hidden[0]

    def test_what_it_brings_is_summed_up_in_a_sentence(self) -> None:
        for kind, name in self.brought():
            summary = getattr(getattr(installed(), kind)[name], "summary", None)
            assert summary is None or summary.strip(), f"{KINDS[kind].__name__} {name}: no summary"

    def test_its_configurations_are_described_and_strict(self) -> None:
        for kind, name in self.brought():
            if not hasattr(getattr(installed(), kind)[name], "config"):
                continue
            model = installed().resolve(kind, name, "config")
            check_described(model, name)
            check_unknown_field(model, name)
            if has_defaults(model):
                check_round_trip(model, {})
