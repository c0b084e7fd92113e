"""Faults by who has to act on them.

A bad roll-out is data, not a crash: an :class:`InfraError` ends one episode, is counted by its
``cause``, retried in a new sandbox, and never becomes a reward of 0. A :class:`SetupError` ends the
program, because only the user can mend it; its message says how.
"""

from __future__ import annotations


class SWEGymError(Exception):
    """Everything that this package raises on purpose."""


class SetupError(SWEGymError):
    """The machine or the configuration lacks something. The message says what to do."""


class InfraError(SWEGymError):
    """A part around the agent failed; the episode says nothing about the agent."""

    cause = "infra"


class SandboxError(InfraError):
    """A sandbox could not be made, died, or stopped answering."""

    cause = "sandbox"


class EngineError(SandboxError):
    """What makes all sandboxes does not answer: no single episode is to blame."""

    cause = "engine"


class PolicyError(InfraError):
    """A model or its server failed to answer."""

    cause = "policy"


class GradingError(InfraError):
    """The tests could not be run or their log could not be read."""

    cause = "grading"
