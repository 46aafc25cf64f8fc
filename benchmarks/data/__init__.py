"""Inputs: synthetic clusters, their documents and events, policy templates, revocation scenarios; pure."""
