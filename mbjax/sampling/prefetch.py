"""Batches made ready while the device computes."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def prefetch(iterable: Iterable[T], size: int = 2) -> Generator[T, None, None]:
    """Yields the items of `iterable`, which a background thread computes up to `size` items ahead.

    The thread starts with the first item asked for. It ends with the iterable, or when the generator is closed or
    dropped. An exception of the iterable is raised here, after the items that came before it.

    Args:
      iterable: what to run ahead; only the thread touches it.
      size: how many finished items may wait, at least 1.
    """
    items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=size)
    stop, end = threading.Event(), StopIteration()

    def produce() -> None:
        error: BaseException = end
        try:
            for item in iterable:
                items.put((item, None))
                if stop.is_set():
                    return
        except BaseException as raised:  # whatever it is, the consumer would else wait for ever
            error = raised
        if not stop.is_set():
            items.put((None, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is end:
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stop.set()
        while not items.empty():  # makes room: a waiting `put` returns, and the thread then sees `stop`
            items.get_nowait()
        if thread is not threading.current_thread():  # the garbage collector may run this anywhere
            thread.join()
