# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SCRIPTS := $(wildcard *.sh configs/*.sh tools/*.sh experiments/*/*.sh) .ci/run
# further flags of pytest
FLAGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test lint bench clean

setup: $(INSTALLED)

# torch first and alone: a later range then finds it satisfied and fetches no second build.
$(INSTALLED): requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	touch $@

demo: setup
	PYTHON=$(CURDIR)/$(RUN) tools/demo.sh

test: setup
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(FLAGS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@if command -v shellcheck >/dev/null; then echo shellcheck -x $(SCRIPTS); shellcheck -x $(SCRIPTS); \
	else echo "shellcheck is not installed; the shell scripts are not checked"; fi

bench: setup
	$(RUN) -m bench.grpo_step
	$(RUN) -m bench.rollout
	$(RUN) -m bench.kg.lexicon
	$(RUN) -m bench.kg.hostile
	$(RUN) -m bench.kg.reward
	$(RUN) -m bench.images
	$(RUN) -m bench.long_groups
	$(RUN) -m bench.growth
	$(RUN) -m bench.load_checkpoint
	$(RUN) -m bench.evaluate
	$(RUN) -m bench.report
	$(RUN) -m bench.sample_data

clean:
	rm -rf $(VENV) data/demo checkpoints/demo output/demo
