"""Map ``kernels/`` and ``export/`` into the package; pyproject.toml holds everything else."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["vsm_fast", "vsm_fast.*"]),
        "vsm_fast.kernels",
        "vsm_fast.export",
    ],
    package_dir={"vsm_fast.kernels": "kernels", "vsm_fast.export": "export"},
)
