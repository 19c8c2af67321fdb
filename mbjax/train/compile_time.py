"""How long JAX compiled, of the time that a run took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax import monitoring

_PART = "/jax/core/compile/"  # of the names of what is measured: tracing, lowering, XLA itself or reading what it made


@contextlib.contextmanager
def measure() -> Iterator[Callable[[], float]]:
    """Within the block, the function that it gives tells the seconds in which something was being compiled.

    Traces lie within traces, and threads compile side by side: seconds that several take up count once.
    """
    spans: list[tuple[float, float]] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_PART):
            now = time.monotonic()
            spans.append((now - duration_secs, now))

    def seconds() -> float:
        total, end = 0.0, 0.0
        for start, stop in sorted(spans):
            total += max(stop - max(start, end), 0.0)
            end = max(end, stop)
        return total

    monitoring.register_event_duration_secs_listener(note)
    try:
        yield seconds
    finally:
        monitoring.unregister_event_duration_listener(note)
