"""Configuration files: hydra.searchpath=[pkg://sample_plugin.conf] finds them."""
