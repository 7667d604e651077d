# make demo, make test: each sets up what it needs (Python >= 3.11, a network for pip).
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN = $(VENV)/bin
EXTRAS ?= dev
JOBS ?= 2# tests at a time; each process holds up to 4 GiB
# Neighbors share compiled programs, so each process gets one half. Not loadfile: pytest-xdist 3.8
# hangs there after the crash of a process (its issues 1323 and 1378).
PARALLEL = --numprocesses=$(JOBS) --dist=worksteal

.PHONY: install demo test test-slow slurm-test drills plans lint

install: $(VENV)/installed-$(EXTRAS)

$(VENV)/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

demo: install
	$(BIN)/python train.py --config=configs/bert.py:tiny --workdir=$(RUNS)/bert-tiny
	$(BIN)/python scripts/evaluate.py --checkpoint=$(RUNS)/bert-tiny
	$(BIN)/python scripts/generate.py --checkpoint=$(RUNS)/bert-tiny --top_k=5 \
	  --prompt="Return a copy of the [MASK]." \
	  --prompt="If the argument is omitted, the default [MASK] is used." \
	  --prompt="This method raises a [MASK] if the key is not found."
	$(BIN)/python train.py --config=configs/gpt2.py:tiny --workdir=$(RUNS)/gpt2-tiny
	$(BIN)/python scripts/evaluate.py --checkpoint=$(RUNS)/gpt2-tiny
	$(BIN)/python scripts/generate.py --checkpoint=$(RUNS)/gpt2-tiny --max_tokens=60 --top_p=0.9 \
	  --prompt="Return the" --prompt="The class is" --prompt="If the file"

test: install
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: install
	XLA_FLAGS=--xla_backend_optimization_level=3 \
	  $(BIN)/python -m pytest -m slow $(PARALLEL)

slurm-test: install
	.ci/install-slurm
	timeout --kill-after=60 600 $(BIN)/python -m pytest tests/slurm_cluster.py

drills: install
	$(BIN)/python tests/drills.py

plans: $(VENV)/installed-$(EXTRAS),tpu
	$(BIN)/python scripts/plans.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
