"""Options: a loss, a method, a data set or a model says which keys of the configuration are its own.

Each owner declares an `Option` for each of its keys, and `mbjax.config` collects and checks them:

    OPTIONS = (Option("gamma", 2.0, NOT_NEGATIVE, "of focal and cosface"),)
"""

import dataclasses
import difflib
import numbers
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an option may hold.

    Attributes:
      wanted: it in words, the end of the message about another value; after the names, if it has names.
      valid: whether a value is allowed. It is asked about values of every type.
      holds: the type of a value, for an option that is unset (None) by default.
      names: what to choose from, where it is a choice; the collection may still grow.
      below: of whole numbers, what they have to be below; 0 for other values.
    """

    wanted: str
    valid: Callable[[Any], bool]
    holds: type = object
    names: Collection[str] | None = None
    below: int = 0

    def describe(self) -> str:
        return self.wanted if self.names is None else f"choose one of {', '.join(self.names)}{self.wanted}"


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of a section of the configuration.

    Attributes:
      name: the key.
      default: its value where a configuration file sets none.
      kind: what it may hold.
      help: one line on what it does.
      parts: of a value that has keys of its own, these.
    """

    name: str
    default: Any
    kind: Kind
    help: str
    parts: tuple["Option", ...] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the configuration: one line on what it is for, and its options."""

    help: str
    options: tuple[Option, ...]


_LARGEST = sys.float_info.max
_BELOW = 2**31  # what the device counts with has 32 bits


def _number(words: str, allowed: Callable[[Any], bool] = lambda x: True) -> Kind:
    def valid(x: Any) -> bool:
        if isinstance(x, bool) or not isinstance(x, numbers.Real):
            return False
        number: Any = x  # NaN is in no interval, and isfinite does not take whole numbers of any size
        return -_LARGEST <= number <= _LARGEST and allowed(number)

    return Kind(f"a number {words}is needed", valid, float)


def _whole(words: str, allowed: Callable[[int], bool] = lambda x: True, below: int = _BELOW) -> Kind:
    def valid(x: Any) -> bool:
        if isinstance(x, bool) or not isinstance(x, numbers.Integral):
            return False
        return -below < int(x) < below and allowed(int(x))

    return Kind(f"a whole number {words}is needed", valid, int, below=below)


NUMBER = _number("")
NOT_NEGATIVE = _number("of at least 0 ", lambda x: x >= 0)
POSITIVE = _number("above 0 ", lambda x: x > 0)
SHARE = _number("from 0 to 1 ", lambda x: 0 <= x <= 1)
SHARE_BELOW_1 = _number("from 0 to below 1 ", lambda x: 0 <= x < 1)
SHARE_INSIDE = _number("above 0 and below 1 ", lambda x: 0 < x < 1)
WHOLE = _whole("")
WHOLE_NOT_NEGATIVE = _whole("of at least 0 ", lambda x: x >= 0)
COUNT = _whole("of at least 1 ", lambda x: x >= 1)
# scikit-learn takes no larger seeds, and JAX's keys of 32 bits would not tell them apart.
SEED = _whole("from 0 to 4294967295 ", lambda x: x >= 0, below=2**32)
FLAG = Kind("True or False is needed", lambda x: isinstance(x, bool), bool)
TEXT = Kind("a text is needed", lambda x: isinstance(x, str), str)


def count_to(most: int) -> Kind:
    """A whole number from 1 to `most`."""
    return _whole(f"from 1 to {most} ", lambda x: x >= 1, below=most + 1)


def choice(names: Collection[str], more: str = "") -> Kind:
    """One of `names`; `more` goes after them in the message."""
    return Kind(more, lambda x: isinstance(x, str) and x in names, str, names)


def unset_or(kind: Kind, otherwise: str, unset: Any = None) -> Kind:
    """What `kind` takes, or `unset`; `otherwise` says what that does, after "or"."""
    return dataclasses.replace(
        kind,
        wanted=f"{kind.wanted}, or {otherwise}",
        valid=lambda x: x is unset or (isinstance(x, type(unset)) and x == unset) or kind.valid(x),
    )


def several(kind: Kind, wanted: str) -> Kind:
    """Any number of what `kind` takes, in a tuple or list."""
    return Kind(wanted, lambda x: isinstance(x, tuple | list) and all(map(kind.valid, x)), tuple)


TEXTS = several(TEXT, "texts in brackets are needed, such as ('a', 'b')")
WHOLES = several(WHOLE, "whole numbers in brackets are needed, such as (5, 50)")


def shown(value: Any, limit: int = 80) -> str:
    """A value on one line of a message, its middle left out where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # a whole number of more than 4,300 digits, say
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= limit else f"{text[: limit - 20]} … {text[-17:]}"


def listed(names: Iterable[str]) -> str:
    """The names for a message: the first twenty of them."""
    names = [repr(name) for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def nearest(key: str, keys: Collection[str]) -> list[str]:
    """The keys that somebody who wrote `key` may have meant: the most similar one, or those with the same last part."""
    same_end = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.7) or same_end
    return (close or difflib.get_close_matches(key, keys, n=1, cutoff=0))[:3]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{key}" if prefix else key).items()}
