"""Coverage-guided fuzzing of images and masks.

python tests/fuzz/fuzz_image.py -max_total_time=60
"""

from guided import run

if __name__ == "__main__":
    run("image")
