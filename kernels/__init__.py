"""GPU kernels in Triton, installed as ``vsm_fast.kernels``: one file per kernel.

A batch of pairs is matched and counted in three launches; the files in their order:

- ``schedule.py``: tables of work, made on the host from offsets (no launch)
- ``nearest.py``: cosine nearest neighbours, semantic and visual (``nearest_gemm.py``: the same
  with matrix products of torch)
- ``claim.py``: each point claims its target, the best claim stays
- ``count.py``: which points are kept, how many of them look the same
- ``match.py``: the three together

``tuning.py`` chooses tiles from measurements in ``tuned/``, which ``tune.py`` takes on the batches
of ``workloads.py``. ``group_norm.py`` is no part of matching and not wired in.

The specification of matching is :func:`vsm_fast.matching.match.match_eager` with
:func:`vsm_fast.matching.scoring.score_eager`; the way in is :func:`vsm_fast.matching.match.match`. Importing a
file here needs Triton.
"""
