"""Comparison of finished runs: one self-contained HTML page, and the same table as Markdown and CSV."""

from wsss.report.build import ReportFiles, write_report
from wsss.report.tables import FigureRow, figure_rows, to_csv, to_markdown

__all__ = ["FigureRow", "ReportFiles", "figure_rows", "to_csv", "to_markdown", "write_report"]
