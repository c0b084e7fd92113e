"""The configuration: every key with its type, default, meaning and what it affects.

Importing this package makes the defaults known to Hydra, which the files of ``conf/`` include.
"""

from experiments.config.store import register

register()
