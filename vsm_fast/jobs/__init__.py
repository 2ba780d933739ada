"""Jobs: millions of pairs scored into Parquet shards that resume after an interruption.

:func:`vsm_fast.jobs.runner.run_job` runs the stages: plan the shards (``plan.py``), open the
folder (``job_folder.py``), score a shard (``shard_scoring.py``), write it (``shard_files.py``),
and summarize (``summary.py``). ``progress.py`` holds the events and limits of a run.
"""
