# Everything from a fresh clone: make setup | demo | test | lint | bench | models | gpu-check
#   PYTHON=python3.12   another interpreter (3.11 or 3.12; 3.11 is the tested one)
#   ARGS='-k alphabet'  more arguments for pytest or the demo
#   DS2_DATA=/path      real recordings for the tests, the demo and the benchmarks
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --constraint constraints.txt
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := setup
.PHONY: setup demo test lint bench models gpu-check

setup: $(STAMP)

# `lm` compiles kenlm and holds numpy below 2; `tensorrt-rtx` has wheels for Linux and Windows alone. A machine
# that cannot have them does everything else.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than 3.11: choose another with make PYTHON=..." >&2; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): a few minutes the first time."
	$(PIP_INSTALL) --editable '.[cpu,train,export,tensorboard,plots,dev]'
	@for extra in lm tensorrt-rtx; do \
		echo "$(PIP_INSTALL) --editable '.[$$extra]'"; \
		$(PIP_INSTALL) --editable ".[$$extra]" \
			|| echo "The extra '$$extra' could not be installed: what needs it is left out." >&2; \
	done
	@touch $@

demo: setup
	$(PY) samples/demo.py $(ARGS)

test: setup
	$(PY) -m pytest --numprocesses auto --dist loadscope $(ARGS)

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

bench: setup
	@set -e; for name in transcribe_speed stream_latency engine_matrix; do echo "== $$name"; $(PY) benchmarks/$$name.py; done

# On a machine with a GPU: MODELS, DATA (of `gpu_check.py pack`), OUT.
gpu-check:
	PYTHONPATH=$(CURDIR):$$PYTHONPATH $(PYTHON) benchmarks/gpu_check.py run $(or $(MODELS),default streaming) \
		--out $(or $(OUT),runs/gpu-check) $(if $(DATA),--data $(DATA)) $(ARGS)

# Hours on a CPU, from the corpora of DS2_DATA; the models come to lie in runs/models/NAME/model.
models: setup
	OMP_NUM_THREADS=1 $(PY) -m training.models all $(ARGS)
