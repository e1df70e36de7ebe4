# Each target is self-sufficient on a fresh Debian machine with Python 3.11 or later.
PYTHON ?= python3
# Compiled modules are kept: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.test-installed
PACKED := setup.cfg setup.py $(wildcard app/translations/*/LC_MESSAGES/*.po)

.PHONY: run demo test check compiled texts constraints bench fuzz oracles

run: $(INSTALLED)
	$(VENV)/bin/model-handler serve $(if $(BIND),--bind $(BIND))

demo: $(INSTALLED)
	tests/system-packages demo
	$(VENV)/bin/python -m tests.demo $(if $(PORT),--port $(PORT)) $(if $(KEEP),--keep)

test: $(TEST_INSTALLED)
	$(MAKE) --no-print-directory --jobs=2 check compiled
	$(VENV)/bin/python -m pytest --numprocesses=3 --dist=loadfile --durations=10 $(ARGS)

# Compile the tests once, while types are checked: each process that runs them would do it.
compiled: $(TEST_INSTALLED)
	-@$(VENV)/bin/python -m pytest --collect-only --quiet --quiet > /dev/null 2>&1

check: $(TEST_INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	tests/system-packages venv
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(PACKED) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(TEST_INSTALLED): $(PACKED) tests/node/package-lock.json | $(VENV)/bin/python
	tests/system-packages test
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	command -v npm >/dev/null || $(VENV)/bin/python -m pip install --quiet --editable '.[node]'
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# What constraints.txt lists: the versions here, once the suite has passed with them.
constraints: test
	$(VENV)/bin/python -m tests.constraints > constraints.txt

# Bring the page's catalogues up to date with what it says.
texts: $(TEST_INSTALLED)
	$(VENV)/bin/python -m tests.catalogues
	$(VENV)/bin/python -m tests.sentences

bench: $(TEST_INSTALLED)
	$(VENV)/bin/python -m benchmarks.transfer $(ARGS)

# Make the tiny models with transformers and record what it and llama.cpp's converter compute.
ORACLES := .venv-oracles
oracles: $(ORACLES)/.installed $(TEST_INSTALLED)
	$(ORACLES)/bin/python -m tests.oracles.record $(ARGS)
	$(ORACLES)/bin/python -m tests.oracles.record_adapters
	$(ORACLES)/bin/python -m tests.oracles.record_quantized
	$(VENV)/bin/python -m pytest tests/test_convert.py tests/test_adapters_oracle.py \
		tests/test_quantize.py
	$(VENV)/bin/python -m tests.oracles.tokenizers

$(ORACLES)/.installed: tests/oracles/requirements.txt
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --requirement tests/oracles/requirements.txt
	touch $@

# Each reader of strangers' bytes in turn, with atheris: make fuzz SECONDS=600
fuzz: $(TEST_INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,fuzz]'
	for target in zip tar gguf safetensors peft tokenizer; do \
		$(VENV)/bin/python -m tests.fuzz $$target $(or $(SECONDS),60) || exit 1; \
	done
