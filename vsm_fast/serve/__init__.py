"""The report as a local web page that also scores what is dropped on it."""
