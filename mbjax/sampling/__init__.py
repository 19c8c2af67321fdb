"""Where batches come from: samplers, resamplers and a prefetching thread."""

from mbjax.sampling.prefetch import prefetch
from mbjax.sampling.samplers import SAMPLERS, make_stream, options, options_of
from mbjax.sampling.stream import Stream, with_views

__all__ = ["SAMPLERS", "Stream", "make_stream", "options", "options_of", "prefetch", "with_views"]
