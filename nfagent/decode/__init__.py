"""Kubernetes documents to model objects, with errors that name object, field and value.

May import: model and below. Pure. Promises: decoders are total (an object, or an ObjectError); one bad field of an
object takes no other along, where the object is not judged as a whole.
"""
