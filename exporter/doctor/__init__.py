"""`plimsoll doctor`: what this node can and cannot tell, and why, with the fix. docs/doctor.md is its manual.

machine.py reads the node's own files, probe.py runs the exporter's sources for a few seconds, the modules in checks/
say what is to be thought of it, report.py writes it down.
"""
