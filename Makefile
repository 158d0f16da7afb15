# Every target sets up .venv by itself; `make` alone lists them. The same works without make: see README.md.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && echo $$p && break; done)
TORCH_INDEX ?=
NB ?= all
PROFILE ?=
ROWS ?=
BYTE_MODELS ?=
MODELS ?= docs-100k docs-400k docs-400k-twin docs-1m docs-3m docs-bytes tales \
	tales-reward tales-rloo tales-rloo-2 tales-dpo \
	tales-mem-400k tales-mem-400k-twin tales-mem-1m tales-mem-1m-twin

PY := .venv/bin/python
READY := .venv/.aep-ready
BENCH_READY := .venv/.aep-bench-ready
TRAIN_READY := .venv/.aep-train-ready
QUIET := $(if $(shell test -t 2 && echo terminal),,-qq)
INSTALL = $(PY) -m pip install $(QUIET) --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -e

.DEFAULT_GOAL := help
.PHONY: help paper test test-slow test-faults bench models tables notebooks lab html lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'
	@echo "Variables: PYTHON (3.11, 3.12 or 3.13), TORCH_INDEX (package index of a small PyTorch build, see README.md)"

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "aep needs Python 3.11, 3.12 or 3.13: install the system package python3.11 (or give PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
		|| { echo "PYTHON=$(PYTHON) is not Python 3.11, 3.12 or 3.13"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make a virtual environment: install the system package $(notdir $(PYTHON))-venv"; exit 1; }
	@test -x $(PY) || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing the pinned dependencies into .venv: 1 to 10 minutes, mostly download$(if $(TORCH_INDEX),, (on Linux PyTorch comes with CUDA, about 3 GB))"
	@$(INSTALL) ".[test,dev]"
	@touch $(READY)

$(BENCH_READY): $(READY)
	@echo "installing minicons and lm-eval, which two rows are measured against, into .venv: about a minute, 25 MB"
	@$(INSTALL) ".[bench]"
	@touch $(BENCH_READY)

$(TRAIN_READY): $(READY)
	@echo "installing trl, accelerate and datasets, which align models, into .venv: about a minute"
	@$(INSTALL) ".[train]"
	@touch $(TRAIN_READY)

paper: $(READY) ## run every notebook: figures/ and data/results/ (minutes; PROFILE=paper: hours, into runs/)
	@echo "running the notebooks ($(if $(PROFILE),profile $(PROFILE),defaults: at most 90 s each on two cores))"
	@$(PY) -m aep run $(NB) $(if $(PROFILE),--profile $(PROFILE))

test: $(READY) ## unit tests and examples, then the committed notebooks compared output by output (minutes)
	@echo "tests of the library: about a quarter of an hour on two cores"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadfile
	@rm -rf runs/test
	@if ls notebooks/[0-9A]*.ipynb >/dev/null 2>&1; then \
		echo "committed notebooks, every output compared: at most 90 s each"; \
		TQDM_DISABLE=1 PYDEVD_DISABLE_FILE_VALIDATION=1 AEP_OUTPUT_ROOT=runs/test AEP_HOME="$(CURDIR)/runs/test/store" \
		OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadscope -o addopts= -o filterwarnings= -p no:cacheprovider \
			--nbval --nbval-current-env \
			--nbval-sanitize-with tests/nbval_sanitize.cfg notebooks/[0-9A]*.ipynb; fi

test-slow: $(READY) ## the tests marked slow: large samples, parameter files (tens of minutes)
	$(PY) -m pytest -q -m slow

test-faults: $(READY) ## the tests that kill processes, fill disks and damage files on purpose (about a quarter of an hour)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m faults

bench: $(BENCH_READY) ## measure anew, write data/results/bench.csv (minutes; ROWS="name ..." for some)
	@echo "measuring $(or $(ROWS),every row): a minute or so a row; nothing else should run meanwhile"
	$(PY) -m aep bench $(ROWS)

models: $(TRAIN_READY) ## train the embedded models again (about six hours of processor time, MODELS="name ..." for some; resumes)
	@echo "training $(MODELS): 5 to 80 minutes of one core each; the same command goes on after an interrupt"
	@for name in $(MODELS); do $(PY) -m aep train $$name || exit; done

tables: $(TRAIN_READY) ## measure the embedded models again: the tables that no notebook makes (about 230 minutes of one core)
	@echo "held-out losses, samples and copying, aligned models, calibration and its controls, the long text, bytes, trainers: about 230 minutes of one core"
	$(PY) -m aep.neural.training.losses
	$(PY) -m aep.neural.training.samples
	$(PY) -m aep.neural.training.tales
	$(PY) -m aep.neural.training.aligned_facts
	$(PY) -m aep.neural.training.planted
	$(PY) -m aep.analysis.calibration
	$(PY) -m aep.analysis.controls
	$(PY) -m aep.analysis.long_text
	$(PY) -m aep.analysis.byte_tables $(BYTE_MODELS)
	$(PY) -m aep.neural.training.trainer_trials
	$(PY) -m aep.data_table

notebooks: $(READY) ## execute and rewrite the committed notebooks and their default parameters (NB=02 for one)
	$(PY) -m aep run $(NB) --in-place

lab: $(READY) ## open JupyterLab
	$(PY) -m jupyterlab

html: $(READY) ## the committed notebooks as a site in runs/html, with an index
	@echo "making a page of every committed notebook: half a minute"
	@$(PY) -m aep.site runs/html

lint: $(READY) ## ruff
	$(PY) -m ruff check
	$(PY) -m ruff format --check

clean: ## remove caches and test output (runs of notebooks stay: rm -r runs)
	rm -rf runs/test runs/html build dist .pytest_cache .ruff_cache .hypothesis lib/aep.egg-info
	find lib tests notebooks -name __pycache__ -prune -o -name .ipynb_checkpoints -prune | xargs rm -rf
