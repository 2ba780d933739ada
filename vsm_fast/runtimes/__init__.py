"""The network of a model behind one signature, whatever runs it."""
