# `make demo` and `make test` do all the set-up; they need python3, python3-venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP := -m pip --disable-pip-version-check --quiet

.PHONY: help demo test test-slow test-long coverage test-without-native test-pythons test-cloacina package lint audit lock bench docs pictures clean

help: ## List the targets.
	@sed -n 's/^\([a-z][a-z-]*\):.* ## /\1\t/p' Makefile | expand -t 20

demo: $(VENV)/installed ## Run the program on a sample tree.
	@$(BIN)/arawn-cli demo

test: $(VENV)/tools ## Run the quick tests on all cores.
	$(BIN)/python -m pytest -n auto -m 'not slow and not long and not engine' tests

test-slow: $(VENV)/tools ## Run the tests with systemd, cron, a relay, faults and sanitizers.
	$(BIN)/python -m pytest -n auto -m 'slow and not long' tests

test-long: $(VENV)/tools ## Run complete fault matrices (about an hour).
	$(BIN)/python -m pytest -n auto -m long tests

coverage: $(VENV)/tools ## List the lines that no test reaches, child processes and private machines included.
	$(BIN)/python -m pytest -n auto -m 'not long' --cov --cov-report= tests
	@$(BIN)/coverage report

# Without what Python compiles: other tests write it at the same time.
COPY_TESTS := tar -c --exclude=__pycache__ tests | tar -x -C

# CI= skips the tests of the native module.
PLAIN := build/without-native
test-without-native: $(VENV)/tools ## Test both jobs with an installation that was built without a compiler.
	rm -rf build/lib* build/temp* build/bdist* $(PLAIN) && mkdir -p $(PLAIN) && $(COPY_TESTS) $(PLAIN)
	$(PYTHON) -m venv --without-pip $(PLAIN)/venv
	PYTHONWARNINGS=ignore CC=false $(BIN)/python $(PIP) --python $(PLAIN)/venv/bin/python install --no-deps .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(PLAIN)/tools.pth
	mv $(PLAIN)/tools.pth $$($(PLAIN)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(PLAIN)/venv/bin/arawn-cli --version -v | grep 'in Python'
	cd $(PLAIN) && CI= venv/bin/python -m pytest -q -n auto -m 'not long and not engine' -p no:cacheprovider $(JOB_TESTS)

JOB_TESTS := tests/unit/cleanup tests/unit/diskcheck tests/unit/fs tests/system/test_faults.py \
  $(wildcard tests/integration/test_*cleanup*.py tests/integration/test_disk_check*.py)

# Run Cloacina in a Debian 13 root, which is built once below $$ARAWN_TEST_CACHE, else ~/.cache.
# Needs root and debootstrap.
test-cloacina: $(VENV)/tools ## Test with Cloacina in a Debian 13 root (needs root and debootstrap).
	$(BIN)/python -m pytest -n 2 -m engine tests/system

# Build the sdist, which must contain all files in git, build the wheel from it, give it the manylinux
# tag of the symbols that it uses, and install it.
package: $(VENV)/tools ## Build sdist and wheel, and install the wheel.
	rm -rf dist
	PYTHONWARNINGS=ignore $(BIN)/python -m build --outdir dist . >/dev/null
	tar -tzf dist/*.tar.gz | sed 's,[^/]*/,,' > dist/packed
	[ ! -e .git ] || git -c safe.directory='*' ls-files > dist/tracked
	[ ! -e .git ] || ! grep -vxFf dist/packed dist/tracked
	$(PYTHON) -m venv dist/venv
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist/repaired dist/*.whl 2>dist/auditwheel.log || { cat dist/auditwheel.log; exit 1; }
	rm dist/*.whl && mv dist/repaired/*.whl dist && rmdir dist/repaired
	dist/venv/bin/python $(PIP) install --constraint tests/constraints.txt dist/*.whl
	dist/venv/bin/arawn-cli --version -v | grep natively

# CI= skips the sanitizers, which need the C sources beside the installed package.
test-pythons: package ## Test both jobs with the wheel on every other Python of this machine.
	CI= tests/support/on_every_python $(BIN)/python dist/*.whl $(JOB_TESTS)

lint: $(VENV)/tools ## Run ruff, mypy --strict and import-linter.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Search the installed versions for known vulnerabilities. pip-audit's exit code is the same for a
# finding and for a failed connection, so a pip with known vulnerabilities is searched first.
AUDIT := $(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement
audit: $(VENV)/tools ## Search the installed versions for known vulnerabilities.
	@if echo pip==9.0.1 | $(AUDIT) /dev/stdin 2>&1 | grep '^Found' >/dev/null; then $(AUDIT) tests/constraints.txt; \
	else echo 'audit: cannot reach the advisory data; nothing was audited'; fi

lock: ## Renew the versions that the tests use.
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python $(PIP) install 'pip>=25.1'
	PYTHONWARNINGS=ignore build/lock/bin/python $(PIP) install . --group dev
	{ echo '# The versions that the tests run with; make lock renews them.'; build/lock/bin/python -m pip freeze --exclude arawn-cli; } > tests/constraints.txt

# BENCH adds options, for example BENCH='--baseline /old/venv/bin/arawn-cli --cold'.
bench: package ## Compare the installed program with du, gdu, ncdu, rm, systemd-tmpfiles and tmpreaper.
	$(BIN)/python -m benchmarks.peers --program dist/venv/bin/arawn-cli $(BENCH)

docs: $(VENV)/tools ## Generate what docs, schemas and the man page say of commands, keys, events and exit codes.
	PYTHONPATH=. $(BIN)/python docs/generate.py
	PYTHONPATH=. $(BIN)/python docs/make_pictures.py

pictures: $(VENV)/tools ## Draw all pictures again (needs chromium).
	PYTHONPATH=. $(BIN)/python docs/make_pictures.py --page

clean: ## Remove everything that the other targets made.
	rm -rf $(VENV) build *.egg-info arawn_cli/fs/*.so .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Without warnings: setuptools calls its ext-modules experimental.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml tests/constraints.txt $(wildcard arawn_cli/fs/*.[ch])
	PYTHONWARNINGS=ignore $(BIN)/python $(PIP) install --constraint tests/constraints.txt --editable .
	@touch $@

# pip has --group from 25.1 on; Debian 12 has an older pip.
$(VENV)/tools: $(VENV)/installed
	$(BIN)/python $(PIP) install 'pip>=25.1'
	$(BIN)/python $(PIP) install --constraint tests/constraints.txt --group dev
	@touch $@
