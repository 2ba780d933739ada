"""GPU kernels, installed as ``vsm_fast.kernels``: one file per kernel.

None is here yet: this version matches on the CPU and, on other devices, with plain torch
(:mod:`vsm_fast.matching` says which path was taken and why).
"""
