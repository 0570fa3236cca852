# `make demo` and `make test` do all the set-up; they need python3, python3-venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP := -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-slow coverage test-without-native test-pythons test-cloacina package lint audit lock bench docs pictures clean

demo: $(VENV)/installed
	@$(BIN)/arawn-cli demo

test: $(VENV)/tools
	$(BIN)/python -m pytest -n auto -m 'not slow and not engine' tests

test-slow: $(VENV)/tools
	$(BIN)/python -m pytest -n auto -m 'slow and not engine' tests

# All of them, with Cloacina too, and what they do not reach: of children and of what runs in other machines as well.
coverage: $(VENV)/tools
	$(BIN)/python -m pytest -n auto -m '' --cov --cov-report= tests
	@$(BIN)/coverage report

# Installs where no compiler is, beside the tools, and has the walk in Python pass the tests of both jobs.
PLAIN := build/without-native
test-without-native: $(VENV)/tools
	rm -rf build/lib* build/temp* build/bdist* $(PLAIN) && mkdir -p $(PLAIN) && cp -r tests $(PLAIN)
	$(PYTHON) -m venv --without-pip $(PLAIN)/venv
	PYTHONWARNINGS=ignore CC=false $(BIN)/python $(PIP) --python $(PLAIN)/venv/bin/python install --no-deps .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(PLAIN)/tools.pth
	mv $(PLAIN)/tools.pth $$($(PLAIN)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(PLAIN)/venv/bin/arawn-cli --version -v | grep 'in Python'
	cd $(PLAIN) && venv/bin/python -m pytest -q -n auto -p no:cacheprovider $(JOB_TESTS)

JOB_TESTS := $(addprefix tests/test_,$(addsuffix .py,usage disk_check reuse scratch_cleanup evidence cleanup_output remove rename occupancy \
  take_apart dismantle crowd trash trash_names faults))

# With Cloacina itself, in a Debian 13 that is made once below $$ARAWN_TEST_CACHE, else ~/.cache; root and debootstrap only.
test-cloacina: $(VENV)/tools
	$(BIN)/python -m pytest -n 2 -m engine tests/test_cloacina_engine.py

# The sdist, which has all that git has, the wheel that is made from it, and the program installed from that.
package: $(VENV)/tools
	rm -rf dist
	PYTHONWARNINGS=ignore $(BIN)/python -m build --outdir dist . >/dev/null
	tar -tzf dist/*.tar.gz | sed 's,[^/]*/,,' > dist/packed
	[ ! -e .git ] || git -c safe.directory='*' ls-files > dist/tracked
	[ ! -e .git ] || ! grep -vxFf dist/packed dist/tracked
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/python $(PIP) install --constraint tests/constraints.txt dist/*.whl
	dist/venv/bin/arawn-cli --version -v | grep natively

# The wheel on every other Python from 3.11 on that this machine has.
test-pythons: package
	tests/on_every_python $(BIN)/python dist/*.whl $(JOB_TESTS)

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known weaknesses in what is installed, by the advisory data of the package index: where that knows of none in an old pip, it cannot be
# reached, which pip-audit's exit code does not tell from a finding.
AUDIT := $(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement
audit: $(VENV)/tools
	@if echo pip==9.0.1 | $(AUDIT) /dev/stdin 2>&1 | grep '^Found' >/dev/null; then $(AUDIT) tests/constraints.txt; \
	else echo 'audit: the advisory data cannot be reached; nothing was audited'; fi

# The newest versions of everything that the tests take.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python $(PIP) install 'pip>=25.1'
	PYTHONWARNINGS=ignore build/lock/bin/python $(PIP) install . --group dev
	{ echo '# The versions that the tests run with; make lock renews them.'; build/lock/bin/python -m pip freeze --exclude arawn-cli; } > tests/constraints.txt

# The program as it is installed from the wheel, beside du, gdu, ncdu, rm, systemd-tmpfiles and tmpreaper, as far as they are there; BENCH holds more options.
bench: package
	$(BIN)/python -m benchmarks.peers --program dist/venv/bin/arawn-cli $(BENCH)

# What the docs and the man page say of commands, keys, events and exit codes, and what terminals show.
docs: $(VENV)/tools
	PYTHONPATH=. $(BIN)/python docs/generate.py
	PYTHONPATH=. $(BIN)/python docs/make_pictures.py

# All pictures; that of the page takes chromium.
pictures: $(VENV)/tools
	PYTHONPATH=. $(BIN)/python docs/make_pictures.py --page

clean:
	rm -rf $(VENV) build *.egg-info arawn_cli/fs/*.so .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Without warnings: setuptools calls its ext-modules experimental.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml tests/constraints.txt $(wildcard arawn_cli/fs/*.[ch])
	PYTHONWARNINGS=ignore $(BIN)/python $(PIP) install --constraint tests/constraints.txt --editable .
	@touch $@

# pip learnt --group in 25.1, later than the pip of the Debian release that is oldest here.
$(VENV)/tools: $(VENV)/installed
	$(BIN)/python $(PIP) install 'pip>=25.1'
	$(BIN)/python $(PIP) install --constraint tests/constraints.txt --group dev
	@touch $@
