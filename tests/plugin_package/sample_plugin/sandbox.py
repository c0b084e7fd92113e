"""A sandbox: that of user namespaces, with another name."""

from __future__ import annotations

from swe_gym_env.sandbox.local import LocalProvider


class SampleProvider(LocalProvider):
    """A real one would start sandboxes in another way, in ``create``."""

    name = "sample_sandbox"
