"""Descriptors to matches and scores: the specification and its fast paths."""
