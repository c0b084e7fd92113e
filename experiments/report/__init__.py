"""One self-contained HTML page for a run, an evaluation or a comparison.

Figures also as PNG, tables as CSV. docs/guides/evaluate-and-report.md says what the page shows and
how to read it.
"""

from experiments.report.evaluation_page import write_evaluation
from experiments.report.publish import publish
from experiments.report.run_page import write_report
from experiments.report.sweep_page import write_comparison

__all__ = ["publish", "write_comparison", "write_evaluation", "write_report"]
