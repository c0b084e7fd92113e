"""The expert: a teacher that knows the gold patch and answers any state with a sensible turn."""

from swe_gym_env.policies.expert.policy import ExpertPolicy

__all__ = ["ExpertPolicy"]
