"""What every test shares: two simulated CPU devices, strict promotion, float64, and compiled programs.

Most of the suite's time goes to compiling small programs that run once, so XLA optimises them less here than it does
for users. With `XLA_FLAGS` set, to nothing, say, the tests compile as users do; `.ci/run` does so on its second Python.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator

import jax
import pytest

from mbjax import programs, report

if "XLA_FLAGS" not in os.environ:  # the processes that tests start inherit it
    flags = ["--xla_backend_optimization_level=1"]
    if jax.__version_info__ < (0, 11):  # newer ones do not know it
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# Arrays of different ranks must meet on purpose: a loss [n] less labels [n, 1] would quietly be [n, n].
jax.config.update("jax_numpy_rank_promotion", "raise")

# Started in the background of a shell, the tests and what they start would ignore these.
for signum in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(signum) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signum, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs for the session: many tests, and the processes that they start, compile the same ones."""
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        kept = tempfile.TemporaryDirectory(prefix="mbjax-compiled-")
        config.add_cleanup(kept.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = kept.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    programs.keep()


@pytest.fixture(autouse=True)
def no_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes longer than most of the runs here; tests/test_page.py makes them, and so do whole processes."""
    if request.path.name != "test_page.py":
        monkeypatch.setattr(report, "leave_page", lambda *_: None)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 within the test: gradients can then be compared to 1e-10."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Different dtypes do not meet within the test. Not for every test: optax's schedules and Adam mix integers and
    floats, and flax's BatchNorm mixes the dtype it computes in with that of its statistics."""
    with jax.numpy_dtype_promotion("strict"):
        yield
