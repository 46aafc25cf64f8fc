"""Kubernetes documents to model objects, with errors that name object, field and value.

May import: model and below. Pure. Invariants: decoders are total (an object, or an ObjectError); an invalid field of
an object doesn't affect its other fields, unless its kind is rejected as a whole.
"""
