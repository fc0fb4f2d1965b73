"""Carries the protocol's decisions out, awaiting the store in protocol order."""
