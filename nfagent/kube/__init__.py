"""The API server as object source: client, credentials, list and watch, discovery, access reviews.

`reflector` and the codecs are pure: bytes in, objects and the next request out. `client` speaks HTTP, `informers`
runs a reflector for each resource. May import: checkpoint and below. Promises: an object that can't be decoded keeps
its last good version in force and holds up no other; what a relist doesn't name is removed, and nothing else.
"""
