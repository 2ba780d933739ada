"""Scores, heat maps, matched points and tables."""
