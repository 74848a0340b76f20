# make demo      train, export and run a small model on real digits
# make test      the tests, once on each backend (BACKENDS="jax" for some of them)
# make test-all  with the long ones
# make docs      the site, into docs/_build/html, strict: a warning is an error
# make lint      formatting, lint, types
# make web       the page in the browser, with the demo's model (or MODEL=file.tflite)
# make page      builds that page, for the wheel too; with Node.js
# make benchmark the models' speed beside other libraries, see benchmarks/README.md
# make peers     an environment with timm, for `make benchmark`
# make clean     the environments and everything built

PYTHON ?= python3
BACKENDS ?= tensorflow jax torch
MODEL ?= demo_output/digits.tflite

# TensorFlow's warnings and errors, but not what it says at every start.
export TF_CPP_MIN_LOG_LEVEL ?= 1

VENV := .venv
BIN := $(VENV)/bin
# The environment is set up anew whenever what it is made from changes.
STAMP := $(VENV)/.installed

# What npm makes of applications/web.
PAGE := keras_metaformer_lite/page/index.html
MODULES := applications/web/node_modules/.package-lock.json

.PHONY: demo test test-all docs lint web page benchmark peers clean

demo: $(STAMP)
	$(BIN)/keras-metaformer demo --output demo_output

test: $(STAMP)
	$(BIN)/python scripts/run_tests.py --backends $(BACKENDS)

test-all: $(STAMP)
	$(BIN)/python scripts/run_tests.py --backends $(BACKENDS) --large

# Anew each time: what is left of an older page would hide a link that leads nowhere.
docs: $(STAMP)
	rm -rf docs/_build
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

web: $(STAMP) $(PAGE) $(MODEL)
	$(BIN)/keras-metaformer web --model $(MODEL)

page: $(PAGE)

$(PAGE): $(MODULES) applications/web/build.js $(wildcard applications/web/page/*)
	npm run build --silent --prefix applications/web

# No package's own scripts are needed.
$(MODULES): applications/web/package-lock.json
	npm ci --ignore-scripts --silent --prefix applications/web

demo_output/digits.tflite:
	$(MAKE) demo

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGUMENTS)

peers:
	$(PYTHON) benchmarks/make_peers.py

clean:
	rm -rf $(VENV) .venv-peers build dist docs/_build docs/api keras_metaformer_lite/page applications/web/node_modules demo_output .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@
