"""A folder of manifests as the object source: read once, then watched by inotify, in batches of what changes together.

May import: checkpoint and below. Guarantees: a file that can't be read or parsed keeps its last good objects; other
files are not delayed by it.
"""
