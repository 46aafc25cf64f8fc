"""The last good version of objects on disk, so that a restart doesn't forget what was in force.

`codec` is pure, `store` and `journal` write and read files in a thread of their own. May import: simulate and below.
Promises: a damaged line takes no other line along; a slow or full disk holds up nothing.
"""
