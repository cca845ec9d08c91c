# The two commands: `make demo` and `make test`. Everything is installed into .venv in this folder.

VENV ?= .venv
PYTHON := $(VENV)/bin/python
BASE ?= python3
JOBS ?= 3
NPM := tests/interop/npm

# Each of some thousand processes that the tests start would compile relay anew: 0.2 s of a core.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint coverage bench npm clean

# What each command needs and nothing more; a stamp for each says that it is there.
$(VENV)/demo-ready: pyproject.toml
	$(BASE) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable ".[asgi]"
	touch $@

$(VENV)/test-ready: $(VENV)/demo-ready
	$(PYTHON) -m pip install --quiet --upgrade "pip>=25.1"  # knows --group
	$(PYTHON) -m pip install --quiet --group test
	touch $@

$(VENV)/lint-ready: $(VENV)/test-ready
	$(PYTHON) -m pip install --quiet --group lint
	touch $@

demo: $(VENV)/demo-ready  ## origin, relay and the page on http://127.0.0.1:8000/
	$(PYTHON) -m relay demo

npm: $(NPM)/node_modules/.package-lock.json  ## what the tests run in node and in a browser

$(NPM)/node_modules/.package-lock.json: $(NPM)/package-lock.json
	@if command -v npm >/dev/null; then \
	  cd $(NPM) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json; \
	else echo "npm is not installed: the tests of npm packages are skipped"; fi

test: $(VENV)/test-ready npm  ## every test; those of real servers need Debian's packages (see .ci/run)
	$(PYTHON) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Who awaits what, and who can cancel it (https://flake8-async.readthedocs.io), for each module with an `await`. Left out:
#   ASYNC124  an async function without an await is there because its callers await it: a protocol, a table of functions
#   ASYNC128  `task_status` is passed on to the function that calls `started`
#   ASYNC910, ASYNC911  a checkpoint on every way out costs a round through Trio where the bytes are there already; what
#             keeps one stream from holding up the others is that every turn of the engine is bounded
FLAKE8_ASYNC := --enable=ASYNC1,ASYNC2,ASYNC912,ASYNC913 --disable=ASYNC124,ASYNC128 \
  --startable-in-context-manager=serve_admin,_run_then_cancel,run

lint: $(VENV)/lint-ready  ## formatting, lint, types, and the isolated check of a user's code
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy tests --exclude tests/downstream  # which is checked like a user's code, by the last line
	$(VENV)/bin/flake8-async $(FLAKE8_ASYNC) $$(grep -rlE "async def|await " --include=*.py relay)
	$(BASE) tests/downstream/check.py

coverage: $(VENV)/test-ready  ## the lines and branches that tests/io reaches; fails below the floor in pyproject.toml
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest tests/io
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

bench: $(VENV)/test-ready  ## every measure of docs/technical-notes/performance.md
	$(PYTHON) -m pip install --quiet --group bench
	$(PYTHON) -m benchmarks

clean:
	rm -rf $(VENV) $(NPM)/node_modules build dist
