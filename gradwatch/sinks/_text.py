"""What a model or its author names is hostile input to every face: made harmless here, once."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LOST: Final = "█"
GAINED: Final = "░"
LEVELS: Final = "▁▂▃▄▅▆▇█"
_ASCII: Final = str.maketrans(GAINED + LEVELS, "+" + "_.:-=+*#")

MAX_NAME: Final = 48
"""Characters of a name."""
MAX_WORD: Final = 96
"""Characters without a space in a sentence."""
MAX_SENTENCE: Final = 1200


def clean(text: str, longest: int = MAX_SENTENCE) -> str:
    """Return it on one line, without control and direction characters, shortened in the middle."""
    visible = "".join(" " if c.isspace() else c for c in text if c.isspace() or _is_visible(c))
    words = re.sub(r"\S+", lambda word: _shorten(word[0], MAX_WORD), visible)
    return _shorten(words, longest)


def name(text: str) -> str:
    """Return the name of a layer, a class, a finding, as `clean` does."""
    return clean(text, MAX_NAME)


def code_lines(code: str) -> list[str]:
    """Return the lines of some code to paste, whole, without control characters."""
    lines = code.strip("\n").split("\n")
    return ["".join(c for c in line.expandtabs(4).rstrip() if _is_visible(c)) for line in lines]


def signed(bits: float, digits: int = 1) -> str:
    """Return a number of bits with its sign; never -0.0."""
    return f"{round(bits, digits) + 0.0:+.{digits}f}"


def for_encoding(text: str, encoding: str | None) -> str:
    """Return the text in ASCII if it cannot be encoded otherwise, else as it is.

    A report is printed at the end of a training, which must not end with a UnicodeEncodeError.
    """
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
    return text


def _is_visible(character: str) -> bool:
    return not unicodedata.category(character).startswith("C")


def _shorten(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
