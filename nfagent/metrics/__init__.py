"""Metrics in Prometheus' text format: the table of families, their values, and how they are written.

families is the table, from which docs/metrics.md is generated; collector returns the values of a scrape.
"""
