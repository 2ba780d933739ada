"""GPU kernels in Triton, installed as ``vsm_fast.kernels``: one file per kernel.

A batch of pairs is matched and counted in three launches; the files in their order:

- ``schedule.py``: work tables, computed on the host from offsets (no launch)
- ``nearest.py``: cosine nearest neighbours, semantic and visual (``nearest_gemm.py``: the same
  with torch's matrix products)
- ``claim.py``: each point claims its target; the best claim wins
- ``count.py``: kept points and counts per pair
- ``match.py``: the three launches together

``tuning.py`` selects tiles from measurements in ``tuned/``; ``tune.py`` takes them on the batches
of ``workloads.py``.

The specification of matching is :func:`vsm_fast.matching.match.match_eager` with
:func:`vsm_fast.matching.scoring.score_eager`; callers use
:func:`vsm_fast.matching.match.match`. All files except this one may import Triton.
"""
