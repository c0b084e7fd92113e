"""The errors of this package, divided by who has to act on them.

An :class:`InfraError` concerns one episode: it ends that episode, is counted by its ``cause`` and
retried in a new sandbox, and never becomes a reward of 0. A :class:`SetupError` ends the program,
because only the user can correct it; its message says how.
"""

from __future__ import annotations


class SWEGymError(Exception):
    """Base class of all errors that this package raises on purpose."""


class SetupError(SWEGymError):
    """The machine or the configuration lacks something; the message says what to do."""


class InfraError(SWEGymError):
    """The infrastructure around the agent failed, so the episode says nothing about the agent.

    Attributes:
        cause: Which part failed. Metrics count faults by it, and it begins the ``reason`` of a
            masked outcome.
    """

    cause = "infra"


class SandboxError(InfraError):
    """A sandbox could not be made, died, or stopped answering."""

    cause = "sandbox"


class EngineError(SandboxError):
    """The engine that makes all sandboxes does not answer, so no single episode is to blame."""

    cause = "engine"


class PolicyError(InfraError):
    """A model or its server failed to answer."""

    cause = "policy"


class GradingError(InfraError):
    """The tests could not be run or their log could not be read."""

    cause = "grading"
