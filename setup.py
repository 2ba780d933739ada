"""Packaging of vsm_fast.

``kernels/`` and ``export/`` stand at the top of the tree, where their readers look for them,
and are installed as ``vsm_fast.kernels`` and ``vsm_fast.export``.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def _version() -> str:
    scope: dict[str, str] = {}
    exec((HERE / "vsm_fast" / "version.py").read_text(encoding="utf-8"), scope)
    return scope["__version__"]


# 3.6 is the first that the kernels were compiled with (_triton_matching.py checks it too); PyPI's
# torch asks for one version exactly.
TRITON = "triton>=3.6,<4; platform_system == 'Linux' and platform_machine == 'x86_64'"

DOCS = ["sphinx>=8.1", "myst-parser>=4.0", "furo>=2024.8"]

EXTRAS = {
    # Scoring on NVIDIA GPUs, and export to ONNX, which TensorRT builds from. ONNX Runtime for GPUs
    # has the same files as that of the extra "onnx": not both.
    "gpu": [
        TRITON,
        "xformers>=0.0.30; platform_system == 'Linux'",
        "onnxruntime-gpu>=1.22; platform_system == 'Linux'",
        "tensorrt>=10.13; platform_system == 'Linux'",
        "onnx>=1.18",
        "onnxscript>=0.4",
    ],
    # Export, and scoring with ONNX Runtime on a CPU.
    "onnx": ["onnx>=1.18", "onnxscript>=0.4", "onnxruntime>=1.22"],
    # Controlled pairs (OpenCV: warps, Poisson blending, inpainting) and training: in one or more
    # processes (accelerate), with logs (tensorboard) and a figure of the mixing weights.
    "train": [
        "opencv-python-headless>=4.10",
        "scipy>=1.13",
        "accelerate>=1.10",
        "tensorboard>=2.17",
        "matplotlib>=3.9",
    ],
    # Masks by GrabCut (OpenCV) for images that come without one.
    "masks": ["opencv-python-headless>=4.10"],
    # Stages of dataset generation, and baselines, with pretrained models: Grounding DINO, SAM, CLIP
    # and DINO through transformers; diffusion pipelines, whose text encoders are transformers', and
    # which accelerate loads without a second copy in memory and moves to and from the GPU.
    "pairs": [
        "transformers>=5.23",
        "accelerate>=1.10",
        "diffusers>=0.42.1",
        "opencv-python-headless>=4.10",
        "scipy>=1.13",
    ],
    # LPIPS needs torchvision, of which there is no build for every torch: hence apart.
    "lpips": ["lpips>=0.1.4", "torchvision>=0.20"],
    # Figures of an evaluation (matplotlib; scipy: density curves) and the SSIM and colour
    # baselines (scikit-image: its SSIM gives the map that is averaged over the subject).
    "evaluate": ["matplotlib>=3.9", "scikit-image>=0.24", "scipy>=1.13"],
    # Figures of what the descriptors see (matplotlib), principal components and k-means
    # (scikit-learn) and the assignment that gives clusters their colours (scipy).
    "visualize": ["matplotlib>=3.9", "scikit-learn>=1.5", "scipy>=1.13"],
    # Linear layers in 8 bits: PyTorch's own library for it (BSD). Not among the tests' packages:
    # where it is installed, diffusers imports it too, which takes 2.6 s.
    "quantize": ["torchao>=0.17"],
    # VSM as a metric in training loops (Apache-2.0; its figures need matplotlib).
    "metric": ["torchmetrics>=1.4", "matplotlib>=3.9"],
    # Tables as data frames, and a page to explore results in a browser (Jinja2: its template).
    "report": ["pandas>=2.2", "jinja2>=3.1.6"],
    # The same page from a local server that scores uploads: a web framework without pydantic,
    # the server that its authors write, and the parser of forms that it asks for.
    "serve": ["jinja2>=3.1.6", "starlette>=1.3.1", "uvicorn>=0.30", "python-multipart>=0.0.31"],
    # Documentation: Sphinx makes the reference from docstrings, MyST reads Markdown. (Material for
    # MkDocs, which would do as well, ends in 2027.)
    "docs": DOCS,
    # Jobs on several machines: brings shards to actors, replaces those that die.
    "ray": ["ray[data]>=2.40"],
    "test": [
        "pytest>=8.2",
        "onnx>=1.18",
        "onnxscript>=0.4",
        "onnxruntime>=1.22",
        TRITON,  # without a GPU the kernels are interpreted, and compiled ahead of time
        "pytest-benchmark>=5.1",
        "pytest-xdist>=3.6",  # the suite in two processes: most tests use one core
        "hypothesis>=6.100",
        "opencv-python-headless>=4.10",
        "scipy>=1.13",
        "transformers>=5.23",
        "accelerate>=1.10",
        "tensorboard>=2.17",
        "pandas>=2.2",
        "matplotlib>=3.9",
        "scikit-image>=0.24",
        "scikit-learn>=1.5",
        "torchmetrics>=1.4",
        "faiss-cpu>=1.9",  # a peer in the benchmarks
        *DOCS,
        "jinja2>=3.1.6",
        "starlette>=1.3.1",
        "uvicorn>=0.30",
        "python-multipart>=0.0.31",
        "websocket-client>=1.8",  # speaks to Chromium, in the tests of pages
        "ray[data]>=2.40",  # jobs are tested on a real one of two actors
        "psutil>=5.9",  # which of its processes are left
    ],
    # Coverage-guided fuzzing by hand (tests/fuzz/fuzz_*.py): Google's for Python (Apache-2.0).
    "fuzz": ["atheris>=3.0; platform_system == 'Linux' and platform_machine == 'x86_64'"],
    # Peers in the benchmarks that the tests do without.
    "bench": ["pykeops>=2.3; platform_system != 'Windows'"],
    "dev": ["ruff>=0.12", "mypy>=1.16", "pre-commit>=4.0", "pytest-cov>=7.0"],
}

setup(
    name="vsm_fast",
    version=_version(),
    description="Visual Semantic Matching: does a generated image still show the same subject, "
    "and where not",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["vsm_fast", "vsm_fast.*"]),
        "vsm_fast.kernels",
        "vsm_fast.export",
    ],
    package_dir={"vsm_fast.kernels": "kernels", "vsm_fast.export": "export"},
    package_data={
        "vsm_fast": ["py.typed", "models/*/*.json", "models/*/*.safetensors",
                     "models/*/*/*.json", "models/*/*/*.safetensors", "models/*/README.md",
                     "training/masks/README.md", "training/masks/*/*.png",
                     "report/templates/*", "report/static/*"],
        "vsm_fast.kernels": ["tuned/*"],
    },
    install_requires=[
        "torch>=2.5",
        "diffusers>=0.33",
        "numpy>=1.26",
        "pillow>=10.3",
        "safetensors>=0.5",
        "huggingface-hub>=0.30",
        "fsspec>=2024.2",  # manifests and images at addresses; huggingface-hub brings it anyway
        "pyyaml>=6.0",  # the configuration that published networks were trained with
        "tqdm>=4.66",
        "filelock>=3.20.1",  # one export of a model at a time; torch needs it too
        "pyarrow>=16",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vsm-fast=vsm_fast.__main__:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)  # fmt: skip
