"""Controlled inconsistencies: generation from photographs, storage, benchmark."""
