"""Coverage-guided fuzzing of weight files.

python tests/fuzz/fuzz_weights.py -max_total_time=60
"""

from guided import run

if __name__ == "__main__":
    run("weights")
