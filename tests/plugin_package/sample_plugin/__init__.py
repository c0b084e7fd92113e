"""An algorithm, tasks, a sandbox, an action format and a policy for swe_gym_env."""
