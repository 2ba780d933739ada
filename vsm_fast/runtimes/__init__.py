"""Runtimes: the network of a model behind one interface."""
