"""Coverage-guided fuzzing of manifests.

python tests/fuzz/fuzz_manifest.py -max_total_time=60
"""

from guided import run

if __name__ == "__main__":
    run("manifest")
