# make demo   trains a small network with masks, prunes, verifies and measures it; without torch: the embedded model
# make test   runs the tests
# make check  lint and types
# Everything is installed into $(VENV) on first use; torch in a step of its own.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
WORKERS ?= auto
SHARED = ../shared
OUT = models/out

.PHONY: demo story embedded test check lint types clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu,dev]'
	touch $@

$(VENV)/torch-installed: $(VENV)/installed
	$(PIP) torch==2.13.0 onnxscript
	touch $@

$(VENV)/test-installed: $(VENV)/torch-installed
	$(PIP) transformers
	if [ -d $(SHARED) ]; then $(PIP) --no-deps torchvision==0.28.0 timm torch-pruning; fi
	touch $@

demo: $(VENV)/installed
	@mkdir -p $(OUT)
	@if $(MAKE) --no-print-directory $(VENV)/torch-installed; then $(MAKE) --no-print-directory story; \
	else echo "torch cannot be installed here: the embedded model instead"; $(MAKE) --no-print-directory embedded; fi

story:
	$(VENV)/bin/onnxdam train digits --method none -o $(OUT)/dense.onnx --threads 1 --force
	$(VENV)/bin/onnxdam train digits --method dam --target-macs 0.1 -o $(OUT)/masked.onnx --threads 1 --force
	$(VENV)/bin/onnxdam prune $(OUT)/masked.onnx -o $(OUT)/slim.onnx --force
	$(VENV)/bin/onnxdam verify $(OUT)/masked.onnx $(OUT)/slim.onnx
	$(VENV)/bin/onnxdam bench $(OUT)/masked.onnx $(OUT)/slim.onnx --seconds 2
	$(VENV)/bin/python models/demo.py $(OUT)/dense.onnx $(OUT)/masked.onnx $(OUT)/slim.onnx

embedded:
	$(VENV)/bin/onnxdam prune models/demo_masked.onnx -o $(OUT)/slim.onnx --force
	$(VENV)/bin/onnxdam bench models/demo_masked.onnx $(OUT)/slim.onnx

test: $(VENV)/test-installed
	$(VENV)/bin/python -m pytest -n $(WORKERS)

check: lint types

lint: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/installed
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file pyproject.toml cli
	$(VENV)/bin/mypy --config-file pyproject.toml models/recipes

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
