"""`make bench`: every figure of docs/benchmarks.md, measured on this machine, now.

Benchmarks print distributions and ratios; none fails by time.
"""
