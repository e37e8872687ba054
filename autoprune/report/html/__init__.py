"""Front and records -> report.html: one page that needs neither network nor scripts, and is better with them."""

from autoprune.report.html.page import html_report, write_html, write_report

__all__ = ["html_report", "write_html", "write_report"]
