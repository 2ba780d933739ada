"""Coverage-guided fuzzing of config.json, export.json and sidecars of plans.

python tests/fuzz/fuzz_records.py -max_total_time=60
"""

from guided import run

if __name__ == "__main__":
    run("records")
