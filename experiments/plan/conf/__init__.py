"""Files of the configuration that only ``python -m experiments.plan`` reads."""
