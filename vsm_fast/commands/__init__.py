"""The commands of ``vsm-fast``, one module each: ``add_parser`` declares its arguments.

Modules import what is heavy (torch, OpenCV, SciPy) inside functions, so that ``--help`` is quick.
"""
