"""The objects that were read, with the indexes that answer in the size of the answer.

May import: decode and below. Pure. Promises: indexes are updated by the event, and always equal to rebuilt ones.
"""
