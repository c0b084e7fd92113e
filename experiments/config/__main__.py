"""``python -m experiments.config``: writes docs/reference/configuration.md anew."""

from __future__ import annotations

from experiments.config.reference import PAGE, page

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    print(PAGE)
