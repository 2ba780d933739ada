"""Training data: photographs, procedural renderings and controlled alterations of both."""
