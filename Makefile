# `make demo` and `make test` create the environment in .venv automatically.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Number of test processes, one thread each. Tests that start many processes share one of them. The processes share
# compiled files, even where PYTHONDONTWRITEBYTECODE is set: compiling T3D takes seconds.
WORKERS ?= 2

.PHONY: demo test test-long test-slow test-browser check docs site notebooks env clean

demo: $(READY)
	$(BIN)/t3d demo --out demo

test: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not long and not browser"

test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "long and not slow and not browser"

test-slow: $(READY)
	$(BIN)/pytest -m slow

# Chromium and its driver: on Debian, `apt-get install chromium chromium-driver`.
test-browser: site
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser tests/serve tests/browser

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# Regenerate two pages, and build the site with all checks: build/site/index.html.
docs: $(READY)
	$(BIN)/python -m t3d.cli.reference > docs/reference/options.md
	$(BIN)/python tests/footage_page.py > docs/reference/footage.md
	$(MAKE) site

# Warnings, such as a dead link or a page that is in no menu, are errors.
site: $(READY)
	rm -rf build/site
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/site
	$(BIN)/python docs/check_site.py build/site

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks/execute.py

env: $(READY)

# The environment is created again when the requirements change.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "T3D needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
