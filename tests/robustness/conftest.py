"""How much these tests try: `MBJAX_FUZZ_EXAMPLES` of each strategy; `launch/fuzz.sh` raises it."""

import os

import hypothesis

hypothesis.settings.register_profile(
    "mbjax",
    max_examples=int(os.environ.get("MBJAX_FUZZ_EXAMPLES", "15")),
    deadline=None,  # a slow machine is no fault
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("mbjax")
