# `make demo` and `make test` do everything on a machine with make and Python 3.11 or newer: they create the virtual
# environment, install what they need and run. Another Python:  make test PYTHON=python3.13
# Another build of torch (CUDA, older):                         make test TORCH="torch torchvision"

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.14.1 torchvision==0.29.1
JOBS   ?= 2
PLUGINS := $(wildcard plugins/*/pyproject.toml)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-oldest fuzz mutants lint format bench docs clean

demo: $(VENV)/.demo
	$(BIN)/reparamkit demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS)
	for plugin in $(dir $(PLUGINS)); do $(BIN)/python -m pytest $$plugin || exit 1; done

# The core on the oldest torch that is supported; what needs a newer one, or an extra, is skipped.
test-oldest:
	$(MAKE) $(VENV)-oldest/.oldest VENV=$(VENV)-oldest TORCH="torch==2.6.0 torchvision==0.21.0 numpy"
	$(VENV)-oldest/bin/python -m pytest -n $(JOBS) -m "not zoo" tests

# Generated models against what they compute; MODELS=1000 FIRST=0 for fewer, or others. What it finds is written to
# fuzz-output/findings.txt as it comes; started again, it goes on where it was stopped.
MODELS ?= 100000
FIRST  ?= 0
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --models $(MODELS) --first $(FIRST) --jobs $(JOBS)

# Small changes of operators/, merge.py and rules/ that the tests of the algebra do not notice: EACH of every file.
EACH ?= 5
mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants --each $(EACH) --jobs $(JOBS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	for plugin in $(dir $(PLUGINS)); do $(BIN)/mypy $$plugin || exit 1; done

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The pages that are written from the sources, then the site in site/. Fetches nothing.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build -f mkdocs.yml

bench: $(VENV)/.dev
	for file in $(filter-out benchmarks/coverage.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(VENV)-oldest mutants build dist site demo-output fuzz-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each stamp is made once, and again only when what it depends on changed: the second run starts at once.
# torch comes first and alone, so that no later step picks another build of it.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11; say which one to use: make PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.oldest: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[cli,safetensors,report,test]'
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml $(PLUGINS)
	$(PIP) -e '.[dev]' $(foreach plugin,$(dir $(PLUGINS)),-e $(plugin))
	@touch $@ $(VENV)/.demo
