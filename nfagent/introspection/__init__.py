"""The running agent's answers over its unix socket: views of its state, differences to the kernel, freshness.

May import: controllers and below. Promises: an answer is encoded in slices of 8 ms, and states what of it is
unknown or old.
"""
