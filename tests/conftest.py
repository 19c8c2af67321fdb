"""What every test shares: two simulated CPU devices, strict promotion, float64."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# Arrays of different ranks must meet on purpose: a loss [n] less labels [n, 1] would quietly be [n, n].
jax.config.update("jax_numpy_rank_promotion", "raise")


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
