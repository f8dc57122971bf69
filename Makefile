# make setup | demo | plan | test | lint | clean - each does its own set-up in .venv (Python 3.11 or newer and make are all it needs)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# everything below runs offline; a model that is not here is reported at once instead of being looked for on the Hub
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo plan test lint clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV) (about 7 GB; two minutes on a fast line)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.txt
	@echo "compiling it on all cores"
	@$(BIN)/python -m compileall -q -j 0 $(VENV) >/dev/null 2>&1 || true  # some packages hold files of other Pythons
	@touch $@

# one progress display; each step's log is in runs/demo/logs; killed anywhere, it goes on when it is started again
QUIETLY := --quiet rules host progress reason
demo: $(READY)
	@$(BIN)/snakemake --configfile config/demo.yaml --cores 2 $(QUIETLY)

# the plan of a study with its estimated cost: make plan STUDY=paper
STUDY ?= demo
STUDIES := $(sort $(patsubst config/%.yaml,%,$(wildcard config/*.yaml)))
plan: $(READY)
	$(if $(filter $(STUDY),$(STUDIES)),,$(error there is no config/$(STUDY).yaml; STUDY may be $(STUDIES)))
	@$(BIN)/snakemake --configfile config/$(STUDY).yaml --dry-run $(QUIETLY)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyrefly check --summary=none --output-format=min-text

clean:
	rm -rf $(VENV) runs .snakemake .pytest_cache .ruff_cache .hypothesis
