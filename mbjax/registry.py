"""The parts that a configuration can name: built in, of installed packages, or of any module as `module:name`."""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

from mbjax.options import Kind, Option
from mbjax.types import UserError

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """Parts by name. A name is one of the built-in parts, of the entry points of `group`, or `PACKAGE.MODULE:NAME`.

    A part's own options are its attribute `OPTIONS`, or the `OPTIONS` of the module that it is written in.

    Args:
      group: of entry points, such as `"mbjax.methods"`.
      parts: the built-in ones. It is not copied.
      accepts: what a part from elsewhere must be.

    Example:
      >>> LOSSES = Registry("mbjax.losses", {"focal": focal})
      >>> LOSSES.find("my_package.losses:hinge", "config.loss.name")
    """

    def __init__(self, group: str, parts: MutableMapping[str, T], accepts: Callable[[Any], bool] = callable):
        self.group, self._parts, self._accepts = group, parts, accepts

    def __getitem__(self, name: str) -> T:
        return self._parts[name] if name in self._parts else self._entry_points[name].load()

    def __setitem__(self, name: str, part: T) -> None:
        self._parts[name] = part

    def __delitem__(self, name: str) -> None:
        del self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._parts, **self._entry_points})

    def __len__(self) -> int:
        return len({**self._parts, **self._entry_points})

    def __contains__(self, name: object) -> bool:
        """Whether the name can be looked up; of `module:name`, `find` says whether it is there."""
        return isinstance(name, str) and (":" in name or name in self._parts or name in self._entry_points)

    @property
    def _entry_points(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))

    @property
    def kind(self) -> Kind:
        """What an option that names a part may hold."""
        return Kind(", or MODULE:NAME", lambda x: x in self, str, self)

    def find(self, name: str, key: str) -> T:
        """The part that `key` of the configuration names.

        Raises:
          UserError: there is none, or it cannot be imported.
        """
        try:
            if ":" not in name:
                return self[name]
            module, _, attribute = name.partition(":")
            part = getattr(importlib.import_module(module), attribute)
        except KeyError:
            raise UserError(f"{key}={name!r}: {self.kind.describe()}") from None
        except (ImportError, AttributeError, ValueError) as error:  # the last of an empty module name
            raise UserError(f"{key}={name!r} cannot be imported: {error}") from error
        if not self._accepts(part):
            raise UserError(f"{key}={name!r} is a {type(part).__name__}, which is no part of {self.group!r}")
        return part

    def options(self, name: Any, key: str) -> tuple[Option, ...]:
        """The own options of a part; none of a name that there is not, which is `find`'s to refuse."""
        if name not in self:
            return ()
        part: Any = self.find(name, key)
        return getattr(part, "OPTIONS", getattr(sys.modules.get(getattr(part, "__module__", "")), "OPTIONS", ()))


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Of the distributions on `path`, which is `sys.path`; looking takes tens of milliseconds."""
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}
