"""Measurements that anyone can repeat. A claim about speed is a ratio within one run."""
