"""MetaBalance in JAX and Flax: training neural networks on class-imbalanced data."""

__version__ = "0.1.0"
