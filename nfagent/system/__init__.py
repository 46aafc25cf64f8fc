"""The process and its service manager: sd_notify(3), readiness, garbage collection and memory given back.

May import: simulate and below.
"""
