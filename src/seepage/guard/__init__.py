"""What a client can check before it shares: the model, and its own update."""

from seepage.guard.findings import Finding, Refused, Report
from seepage.guard.guarded import Guarded
from seepage.guard.scan import Scan, Screened, scan
from seepage.guard.self_audit import SelfAudit, self_audit

__all__ = [
    "Finding",
    "Guarded",
    "Refused",
    "Report",
    "Scan",
    "Screened",
    "SelfAudit",
    "scan",
    "self_audit",
]
