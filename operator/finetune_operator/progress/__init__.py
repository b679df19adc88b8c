"""What runs tell the operator while they run, and what it answers: HTTPS, tokens, certificates, the newest report.

A report is a help, never the truth: one that is lost costs a figure in `kubectl get`, not a decision.
"""
