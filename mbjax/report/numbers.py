"""Numbers on a page: each is looked up by its path in what was written to JSON, so that the two cannot differ."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

_MINUS = "\N{MINUS SIGN}"


class Numbers:
    """Shows numbers of documents by their path: `numbers("result.test.roc_auc")`.

    A page marks each as `<data data-name="PATH" value="VALUE">`, where a test, or a script, reads it back.

    Args:
      documents: what the first word of a path names; JSON's mappings and lists.
    """

    def __init__(self, documents: Mapping[str, Any]):
        self._documents = documents

    def find(self, path: str) -> Any:
        """What is at a path, whose words are keys and numbers of list items; None if there is nothing."""
        found, words = self._documents, path.split(".")
        while words:
            key, words = _key(found, words)
            if key is None:
                return None
            found = found[key]
        return found

    def __call__(self, path: str, style: str = "score") -> Markup:
        """The number at a path, marked with it. Styles are `STYLES`."""
        value = self.find(path)
        if not isinstance(value, int | float):
            return Markup("–")
        return Markup('<data data-name="{}" value="{}">{}</data>').format(path, repr(value), STYLES[style](value))

    def interval(self, path: str, style: str = "score") -> Markup:
        """The interval `[low, high]` at a path."""
        if not self.find(path):
            return Markup("")
        return Markup('<span class="interval">[{}, {}]</span>').format(
            self(f"{path}.0", style), self(f"{path}.1", style)
        )


def _key(found: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The key or number that the words begin with, None if there is none, and the words after it."""
    if isinstance(found, Mapping):
        for end in range(len(words), 0, -1):  # a key may have dots itself
            if (key := ".".join(words[:end])) in found:
                return key, words[end:]
    elif isinstance(found, list) and words[0].isdigit() and int(words[0]) < len(found):
        return int(words[0]), words[1:]
    return None, []


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    if value >= 90:
        return f"{value / 60:.1f} min"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"


def _percent(value: float) -> str:
    percent = 100 * value
    if percent == round(percent) or 10 <= percent <= 99:
        return f"{percent:.0f}%"
    if 0 < percent < 0.001:
        return "<0.001%"
    return f"{percent:.2g}%" if percent < 1 else f"{percent:.1f}%"


def _minus(text: str) -> str:
    return text.replace("-", _MINUS)


STYLES = {
    "score": lambda value: _minus(f"{value:.3f}"),
    "fine": lambda value: _minus(f"{value:.4f}"),
    "signed": lambda value: _minus(f"{value:+.4f}"),
    "percent": _percent,
    "count": _count,
    "seconds": _seconds,
    "number": lambda value: f"{value:.2f}" if value < 10 else f"{value:,.1f}",
    "plain": lambda value: f"{value:.6g}",
}
"""How a number is shown, by the name of the style."""
