"""Jobs: millions of pairs scored into Parquet shards, resumed where they were interrupted.

:func:`vsm_fast.jobs.runner.run_job` knows the order of the stages: plan the shards
(``plan.py``), open the folder (``job_folder.py``), score a shard (``shard_scoring.py``), write it
(``shard_files.py``), record it (``ledger.py``), sum up (``summary.py``).
"""
