"""What an answer says on whether a comment is needed."""

import re

_ANSWER = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def says_yes(text: str) -> bool | None:
    """Return whether an answer begins with yes; None where it begins with neither yes nor no."""
    found = _ANSWER.match(text)
    return found[1].lower() == "yes" if found else None
