"""The Kubernetes objects that nfagent reads, with only the fields that it reads; addresses and label selectors.

May import: errors. Pure. Invariant: objects are immutable values.
"""
