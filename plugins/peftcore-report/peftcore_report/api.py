"""A page about a run or a comparison, from Python."""

from os import PathLike
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_report.page import facts_of, write as write_page
from peftcore_report.pictures import Picture


class Report:
    """A page, and the pictures on it.

    Attributes:
        facts: what the page shows.
        files: what was written: the page and its first picture.
    """

    def __init__(self, facts: dict[str, Any], files: list[Path]):
        self.facts = facts
        self.files = files

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of the page."""
        return [*self.facts["pictures"], *self.facts["details"].pictures]

    @property
    def picture(self) -> Picture:
        """The first picture.

        Raises:
            ConfigError: there is none.
        """
        if not self.pictures:
            raise ConfigError(f"{self.facts['title']}: there is nothing to draw yet.")
        return self.pictures[0]

    def __repr__(self) -> str:
        return f"Report of {self.facts['title']}: {', '.join(map(str, self.files))}"

    def _repr_html_(self) -> str:
        return "".join(picture._repr_html_() for picture in self.pictures)


def report(
    directory: str | PathLike[str],
    /,
    *,
    output: str | PathLike[str] | None = None,
    write: bool = True,
) -> Report:
    """Write a page about a run or a comparison.

    Args:
        directory: the run directory, or that of the comparison.
        output: file to write; ``report.html`` in the directory by default.
        write: write it; otherwise only draw its pictures.

    Raises:
        ConfigError: the directory is neither, or has no results yet, or the file cannot be there.
        CheckpointError: a file of the directory is damaged, or the disk refuses.
    """
    place = Path(directory)
    file = place / "report.html" if output is None else Path(output)
    if write and file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file in it for the output.")
    if write and place.is_dir() and not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}; make it first.")
    facts = facts_of(place)
    return Report(facts, write_page(facts, place, file) if write else [])
