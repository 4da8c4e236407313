# Each target sets up what it needs by itself: see tools/setup.sh.  ARGS goes to the program that a target runs.
.PHONY: help demo test matrix scenarios conformance fuzz soak coverage repeat lint lock clean distclean
ARGS ?=
SETUP = @sh tools/setup.sh

help:
	@echo "make demo    see one-time addresses at work between real kernels (root); ARGS=--memory without root"
	@echo "make test    run every test, real devices and namespaces included; ARGS='-k word' chooses"
	@echo "make matrix  who can talk to whom in which port mode: each row between real kernels, with its capture (root)"
	@echo "make scenarios   every scenario of the catalogue, short, captured and judged; ARGS='--backend netns' between real kernels"
	@echo "make conformance   every rule with its verdict and captures; ARGS=--mutations breaks the stack on purpose"
	@echo "make fuzz    fuzz codecs, front ends, TCP and the whole stack, SECONDS=28800 for a night's run; what it finds is in out/fuzz"
	@echo "make soak    an hour of mixed traffic on a TAP, and whether anything grows; SECONDS=60 for less (root)"
	@echo "make coverage      run every test and name the lines and branches that none reaches"
	@echo "make repeat  run every test 20 times on a loaded machine and print the tally; RUNS=3 LOAD=4 ARGS='--resume -- tests/unit'"
	@echo "make lint    check style, types and who imports whom"
	@echo "make lock    bring requirements/*.txt up to date with pyproject.toml; ARGS=--upgrade takes the newest versions"
	@echo "make clean   remove what runs and tools left behind; make distclean removes .venv as well"
	@echo "All but help and clean make .venv from the lock and, as root, install missing Debian packages."

demo:
	$(SETUP) demo
	@.venv/bin/unimux demo $(ARGS)

# Tests against real kernels mostly wait: two of the processes have them, the third and whoever is free have the others.
WORKERS ?= 3

test:
	$(SETUP) test
	@.venv/bin/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# In one process, so that the table comes in the order of the specification.
matrix:
	$(SETUP) test
	@.venv/bin/python -m pytest -q tests/real/um/test_matrix.py -k "test_row or test_refused" --captures out/matrix $(ARGS)

scenarios:
	$(SETUP) test
	@rm -rf out/scenarios
	@.venv/bin/unimux scenario run --all --quick --out out/scenarios $(ARGS)

conformance:
	$(SETUP) test
	@.venv/bin/unimux conformance $(ARGS)

# Each target gets a quarter of the time.
fuzz: SECONDS ?= 120
fuzz:
	$(SETUP) test
	@for target in codecs front tcp world; do \
		.venv/bin/python -m tests.fuzz.fuzz $$target --seconds $$(($(SECONDS) / 4)) || exit 1; \
	done

soak: SECONDS ?= 3600
soak:
	$(SETUP) test
	@.venv/bin/python -m tests.soak --seconds $(SECONDS)

coverage:
	$(SETUP) test
	@rm -rf out/coverage && mkdir -p out/coverage
	@.venv/bin/python -m coverage run -m pytest $(ARGS); status=$$?; \
		.venv/bin/python -m coverage combine -q; .venv/bin/python -m coverage report; exit $$status

# The whole suite, RUNS times beside LOAD busy processes; prints the tally.  ARGS=--resume goes on where the last tally stopped.
RUNS ?= 20
LOAD ?= 2
repeat:
	$(SETUP) test
	@.venv/bin/python tools/repeat.py --runs $(RUNS) --load $(LOAD) $(ARGS)

lint:
	$(SETUP) lint
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports --no-logo --no-cache
	@.venv/bin/lint-imports --no-logo --no-cache --config tools/cycles.toml

# Exact versions and hashes for Python 3.11 on x86_64, from the public index only, whatever this machine's pip is set to.
lock:
	$(SETUP) lint
	@sh tools/lock.sh $(ARGS)

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find tapstack unimux compat scenarios tests tools -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
