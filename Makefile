# make demo   slims the embedded masked model, shows before and after, and the latency of both
# make test   runs the tests
# make check  lint and types
# Everything is installed into $(VENV) on first use; torch (for tests only) in a step of its own.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
WORKERS ?= auto
SHARED = ../shared

.PHONY: demo test check lint types clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu,dev]'
	touch $@

$(VENV)/torch-installed: $(VENV)/installed
	$(PIP) torch==2.13.0
	$(PIP) onnxscript transformers
	if [ -d $(SHARED) ]; then $(PIP) --no-deps torchvision==0.28.0 timm torch-pruning; fi
	touch $@

demo: $(VENV)/installed
	@mkdir -p models/out
	$(VENV)/bin/onnxdam prune models/demo_masked.onnx -o models/out/demo_slim.onnx --force
	$(VENV)/bin/onnxdam bench models/demo_masked.onnx models/out/demo_slim.onnx

test: $(VENV)/torch-installed
	$(VENV)/bin/python -m pytest -n $(WORKERS)

check: lint types

lint: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/installed
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file pyproject.toml cli

clean:
	rm -rf $(VENV) models/out build dist *.egg-info
