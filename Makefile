# `make demo` and `make test` do all the set-up; they need python3, python3-venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-without-native test-cloacina package lint audit bench docs pictures clean

demo: $(VENV)/installed
	@$(BIN)/arawn-cli demo

test: $(VENV)/tools
	$(BIN)/python -m pytest -n auto --cov --cov-report= tests
	@$(BIN)/coverage report

# Installs where no compiler is, beside the tools, and has the walk in Python pass the tests of both jobs.
PLAIN := build/without-native
test-without-native: $(VENV)/tools
	rm -rf build && mkdir -p $(PLAIN) && cp -r tests $(PLAIN)
	$(PYTHON) -m venv --without-pip $(PLAIN)/venv
	PYTHONWARNINGS=ignore CC=false $(BIN)/python -m pip --python $(PLAIN)/venv/bin/python install --quiet --disable-pip-version-check --no-deps .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(PLAIN)/tools.pth
	mv $(PLAIN)/tools.pth $$($(PLAIN)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(PLAIN)/venv/bin/arawn-cli --version -v | grep 'in Python'
	cd $(PLAIN) && venv/bin/python -m pytest -q -n auto -p no:cacheprovider $(addprefix tests/test_,$(addsuffix .py,$(JOBS)))

JOBS := usage disk_check reuse scratch_cleanup remove dismantle trash faults

# With Cloacina itself, in a Debian 13 that is made once below $$ARAWN_TEST_CACHE, else ~/.cache; root and debootstrap only.
test-cloacina: $(VENV)/tools
	$(BIN)/python -m pytest -n 2 -m engine tests/test_cloacina_engine.py

# The sdist, the wheel that is made from it, and the program installed from that.
package: $(VENV)/tools
	rm -rf dist
	PYTHONWARNINGS=ignore $(BIN)/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	dist/venv/bin/arawn-cli --version -v | grep natively

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known weaknesses in what is installed; it asks the advisory data of the package index.
audit: $(VENV)/tools
	$(BIN)/pip-audit --skip-editable --progress-spinner off

# Beside du, gdu, ncdu, rm, systemd-tmpfiles and tmpreaper, as far as they are there; BENCH holds more options.
bench: $(VENV)/tools
	$(BIN)/python -m benchmarks.peers $(BENCH)

# What the docs and the man page say of commands, keys, events and exit codes.
docs: $(VENV)/tools
	PYTHONPATH=. $(BIN)/python docs/generate.py

# The README's pictures; they take chromium.
pictures: $(VENV)/tools
	PYTHONPATH=. $(BIN)/python docs/make_pictures.py

clean:
	rm -rf $(VENV) build *.egg-info arawn_cli/*.so .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Without warnings: setuptools calls its ext-modules experimental.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml arawn_cli/_usage.c
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# pip learnt --group in 25.1, later than the pip of the Debian release that is oldest here.
$(VENV)/tools: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@
