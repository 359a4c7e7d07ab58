# Two commands do all: `make demo` and `make test`. Both make .venv and install what they need into it.

PYTHON ?= python3
VENV := .venv
JOBS ?= auto
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test lint docs clean

demo: $(READY)
	$(VENV)/bin/python tools/demo.py --out demo_output

test: $(READY)
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(READY)
	$(PIP) install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo 'Open build/site/index.html.'

$(READY): setup.py d2sm_plugin/install_host.py
	@echo 'Installing into $(VENV); PyTorch is large, so this takes a few minutes.'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip setuptools wheel
	$(PIP) install --quiet torch torchvision
	$(VENV)/bin/python -m d2sm_plugin.install_host
	$(PIP) install --quiet --editable ".[all,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo_output build *.egg-info
