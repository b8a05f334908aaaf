"""Looking into a run from Python."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from peftcore import ConfigError, nearest
from peftcore_interpret import looking
from peftcore_interpret.views import VIEWS
from peftcore_train.fitting import as_html, as_text
from peftcore_train.progress import Progress


class Interpretation:
    """What a tuned model looks at, and what its adapter changed.

    Attributes:
        found: the numbers.
        left_out: why a view is not there, by its name.
        files: what was written; nothing without ``output``.
    """

    def __init__(self, seen: looking.Look, files: Sequence[Path]):
        self._seen = seen
        self.found = seen.found
        self.left_out = seen.left_out
        self.files = list(files)

    @property
    def pictures(self) -> Mapping[str, Figure]:
        """The pictures by name."""
        return self._seen.drawn

    def __repr__(self) -> str:
        tables = looking.tables(self._seen)
        return "\n".join(
            [f"Interpretation of {self.found['run']}", *(as_text(t, 100) for t in tables)]
        )

    def _repr_html_(self) -> str:
        return "".join(map(as_html, looking.tables(self._seen))) + "".join(
            f'<img src="data:image/png;base64,{_png(figure)}" alt="{name}">'
            for name, figure in self.pictures.items()
        )


def _png(figure: Figure) -> str:
    out = BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return b64encode(out.getvalue()).decode()


def interpret(
    run: str | PathLike[str],
    /,
    *,
    rows: str | PathLike[str] | None = None,
    what: Sequence[str] = (),
    output: str | PathLike[str] | None = None,
    quiet: bool = False,
    numbers: Sequence[int] = (1,),
    label: str | None = None,
    at: int | None = None,
    limit: int = 500,
) -> Interpretation:
    """Show what a tuned model looks at in rows, and what its adapter changed.

    Args:
        run: the run directory.
        rows: file of rows; the run's test rows if not given.
        what: any of gradients, rollout, mutagenesis, ablation, spectrum; all that the run has.
        output: folder to write numbers and pictures into; nothing is written if not given.
        quiet: say nothing on stderr.
        numbers: which rows are explained, from 1.
        label: whose logit is explained; the likeliest if not given.
        at: the word or residue that is explained, from 1, where each has a label.
        limit: rows that ablation scores.

    Raises:
        PeftcoreError: the run has not what is asked for, or a row does not fit.
    """
    for name in what:
        if name not in VIEWS:
            raise ConfigError(
                f"what: {name!r} is none of {', '.join(VIEWS)}.{nearest(name, VIEWS)}"
            )
    file = None if rows is None else Path(rows)
    asked = looking.Asked(tuple(what), file, tuple(numbers), label, at, limit)
    seen = looking.look(Path(run), asked, Progress(quiet=quiet))
    return Interpretation(seen, [] if output is None else looking.write(seen, Path(output)))
