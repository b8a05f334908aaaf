# Two commands: `make quickstart` and `make test`. Needs git, Python 3.11, make and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
# threads that spin while they wait cost minutes where other programs want the cores too
RUN_ENV := OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1
# the tests use one thread a worker
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: quickstart test install lint docs clean

quickstart: $(VENV)/.quickstart
	$(RUN_ENV) $(BIN)/peftcore train examples/quickstart.yaml

test: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu"

install: $(VENV)/.dev

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.dev
	$(BIN)/python tools/reference.py

$(VENV)/.build: requirements/build.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements/build.txt
	touch $@

# all editable lines stand in one call, so that pip takes the local core
$(VENV)/.quickstart: $(VENV)/.build requirements/quickstart.txt requirements/constraints.txt $(PROJECTS)
	test -e $(VENV)/.dev || $(PIP) install --quiet --no-build-isolation -r requirements/quickstart.txt -c requirements/constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.build requirements/dev.txt requirements/constraints.txt tools/torchvision_hook.py $(PROJECTS)
	$(PIP) install --quiet --no-build-isolation -r requirements/dev.txt -c requirements/constraints.txt
	$(BIN)/python tools/torchvision_hook.py
	touch $@

clean:
	rm -rf $(VENV)
