# Everything is done inside .venv, which `make` builds first.
#   make demo    a small real swarm on the CPU, a few minutes
#   make test    the tests
#   make check   ruff and mypy

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Half of the time tests wait for processes, so three at once fill two cores.
JOBS ?= 3

.PHONY: install demo test soak check bench

install: .venv/installed

.venv/installed: pyproject.toml scripts/install.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; \
		echo "hint: install one, or make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) scripts/install.py

demo: install
	.venv/bin/swarm spawn --agents 2 --agent tuner --devices cpu --oversubscribe --scale small \
		--dataset builtin --seconds 15 --max-experiments 12 --wait

test: install
	.venv/bin/python -m pytest -n $(JOBS) -m "not soak" $(ARGS)

soak: install
	.venv/bin/python -m pytest -m soak $(ARGS)

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict swarm

bench: install
	.venv/bin/python benchmarks/coordinator.py
