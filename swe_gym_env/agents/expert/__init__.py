"""The expert: a teacher that knows the gold patch and answers any state with a sensible turn."""

from swe_gym_env.agents.expert.policy import ExpertPolicy

__all__ = ["ExpertPolicy"]
