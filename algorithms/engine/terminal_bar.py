"""A bar on the terminal for a training that a script starts itself, as a library.

A run shows the training in its own display. Where the output is a file there is no bar.
"""

from __future__ import annotations

from tqdm import tqdm


class TerminalBar:
    """Shows on the standard error how far a training has come, if that is a terminal.

    Args:
        done: Tokens that were trained on before, if a training continues.
        total: Tokens in all.
    """

    def __init__(self, done: int, total: int) -> None:
        self._bar = tqdm(total=total, initial=done, unit=" tokens", unit_scale=True, disable=None)

    def __call__(self, done: int, total: int, remark: str) -> None:
        """Show ``done`` of ``total`` tokens, and ``remark`` without its last part, the speed."""
        self._bar.set_postfix_str(remark.rsplit(",", 1)[0], refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
