"""Metadata of llava-condense; nothing is computed here."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EVAL = ["matplotlib>=3.8"]

setup(
    name="llava-condense",
    version="0.1.0",
    description="LLaVA with fewer visual tokens: every reduction method under one flag, really shorter, measured",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["llava", "llava.*"]),
    install_requires=[
        "torch>=2.6",
        "transformers>=5.14,<6",
        "accelerate>=1.1",
        "sentencepiece>=0.2",
        "protobuf",
        "pillow>=10.1",
        "shortuuid",
        "numpy",
        "pyyaml",
        "rich",
    ],
    extras_require={
        "eval": EVAL,
        "lora": ["peft>=0.15"],
        "quantize": ["bitsandbytes>=0.45"],
        "dev": [*EVAL, "pytest>=8", "ruff>=0.8", "nbclient>=0.10", "ipykernel>=6"],
    },
)
