"""A folder of manifests as object source: read once, followed by inotify, one commit for what changed together.

May import: checkpoint and below. Promises: a file that can't be read or parsed keeps what it held; other files are
not held up.
"""
