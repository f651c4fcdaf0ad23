"""What a run found out, for people: `report.html` and tables for the terminal, only from the run's JSON."""

from pocketvit.reporting.report import write_report
from pocketvit.reporting.tables import summary_table

__all__ = ["summary_table", "write_report"]
