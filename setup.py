"""Metadata of llava-condense; nothing is computed here."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# What the wheel carries beside code: three small checkpoints and 200 pictures, 48 of its 49 MB. See llava/shipped.py.
SHIPPED = runpy.run_path(str(HERE / "llava/shipped.py"))["FILES"]
DATA = {top: [name.partition("/")[2] for name in SHIPPED if name.startswith(top)] for top in ("configs", "playground")}
EVAL = ["matplotlib>=3.8", "scipy>=1.11", "jinja2>=3.1", "openpyxl>=3.1"]
TRAIN = [*EVAL, "peft>=0.15", "pydantic>=2"]
CAPTION = ["pycocoevalcap>=1.2"]  # CIDEr; of what comes with it only that part is used, which needs no Java
SERVE = ["fastapi>=0.110", "uvicorn>=0.30", "pydantic>=2"]
THINGS = ["gguf>=0.17", "onnx>=1.17"]  # the files that llava.things reads
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings[python]>=1"]  # the site
HARNESS = ["lmms-eval>=0.6", "filelock<4"]  # lmms-eval 0.7 looks into a module that filelock 4 no longer has
DEMO = ["gradio>=6.31,<7", "pydantic>=2"]  # not in dev: it wants Pillow < 13; scripts/test_demo.sh tests it
QUANTIZE = ["bitsandbytes>=0.46"]  # the first that also computes on CPUs

setup(
    name="llava-condense",
    version=re.search(r'__version__ = "(.+)"', (HERE / "llava/__init__.py").read_text())[1],
    description="LLaVA with fewer visual tokens: every reduction method under one flag, really shorter, measured",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    entry_points={
        "console_scripts": ["llava = llava.cli.main:main"],
        "lmms_eval.models": ["llava_condense = llava.harness.manifest:manifest"],
    },
    packages=[*find_packages(include=["llava", "llava.*"]), *(f"llava.data.{top}" for top in DATA)],
    package_dir={f"llava.data.{top}": top for top in DATA},
    package_data={
        "llava.eval.report.page": ["*.html", "*.css", "*.js"],
        "llava.eval.leaderboard.page": ["*.html", "*.css", "*.js"],
        "llava.cost": ["*.yaml"],
        "llava.serve.demo": ["*.css"],
        **{f"llava.data.{top}": names for top, names in DATA.items()},
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.17,<5.25",  # what the tests run on: llava/versions.py
        "accelerate>=1.1",
        "sentencepiece>=0.2",
        "protobuf",
        "pillow>=10.1",
        "shortuuid",
        "numpy",
        "pyyaml",
        "rich",
        "click>=8.1",
    ],
    extras_require={
        "eval": EVAL,
        "caption": CAPTION,
        "train": TRAIN,
        "lora": ["peft>=0.15"],
        "quantize": QUANTIZE,
        "serve": SERVE,
        "demo": DEMO,
        "harness": HARNESS,
        "things": THINGS,
        "docs": DOCS,
        "dev": [
            *EVAL,
            *TRAIN,
            *CAPTION,
            *QUANTIZE,
            *SERVE,
            *THINGS,
            *DOCS,
            "openai>=1.40",
            "httpx>=0.27",
            "pyright>=1.1.390",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "nbclient>=0.10",
            "ipykernel>=6",
            "selenium>=4.11",
            "pyarrow>=15",  # the tests' parquet, as lmms-eval's tasks read it
            "setuptools>=77",  # builds the wheel of the tests
        ],
    },
)
