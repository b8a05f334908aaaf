"""Text of recipes that a file system can take for a path."""

from os.path import exists
from typing import Annotated

from pydantic import AfterValidator, Field

#: Bytes of the longest name that common file systems take.
_NAME_BYTES = 255


def _nameable(text: str) -> str:
    if "\0" in text or max(len(part.encode()) for part in text.split("/")) > _NAME_BYTES:
        raise ValueError(f"a name of a file has at most {_NAME_BYTES} bytes, and none that is zero")
    return text


PathText = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_nameable)]


def is_there(text: str) -> bool:
    """Tell whether a text is the path of something; what can be no path is not."""
    return exists(text)  # noqa: PTH110  (pathlib raises for what is too long)
