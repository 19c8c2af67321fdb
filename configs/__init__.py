"""The configurations that come with mbjax: `mbjax train --config=digits`, in a checkout also `configs/digits.py`."""
