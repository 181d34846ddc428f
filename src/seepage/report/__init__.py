"""Reports on the rows and artefacts of a store: nothing here runs anything."""

from seepage.report.report import Report

__all__ = ["Report"]
