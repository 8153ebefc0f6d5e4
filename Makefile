# make demo   classify the bundled video with the bundled weights
# make test   lint, types, docs, tests, and the wheel on the oldest and the newest other Python of the machine
# make clean  remove what these made
#
# Both need Python 3.10 or newer and nothing else; PYTHON=/path/to/python chooses one.

VENV := .venv
BIN := $(VENV)/bin
PIP := TMPDIR="$(CURDIR)/$(VENV)/tmp" $(BIN)/python -m pip --disable-pip-version-check

# A user's own settings must not reach into the environment made here.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
unexport PYTHONHOME PYTHONPATH
# The tests and the pages' examples import ONNX Runtime, which otherwise reports to its maker.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test clean

demo: $(VENV)/.installed-all
	$(BIN)/slowfast-zoo predict slowfast_zoo/video/samples/camera_moves.mp4 --plot camera_moves.png

# The tests run in parts, with new processes for each. In one of four whole runs in one group a process that had run
# thousands of tests met a general protection fault (SIGSEGV, from the kernel, in native code); which library's is not known.
PARTS := 'tests/test_*.py tests/benchmarks tests/cli' 'tests/finetuning tests/inference' \
	'tests/kernels tests/layers tests/models tests/storage tests/utils' 'tests/video tests/weights'

test: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	for part in $(PARTS); do \
		$(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0 $$part || exit 1; done
	$(BIN)/python tests/smoke.py $(VENV)-smoke

clean:
	rm -rf $(VENV) $(VENV)-smoke site build dist .mypy_cache .pytest_cache .ruff_cache camera_moves.png

# The stamp files say what is installed; a changed pyproject.toml installs anew. pip unpacks beside the environment,
# because torch is larger than many machines' /tmp.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	@echo "Installing into $(VENV); the first time this downloads torch, which takes a few minutes."
	@mkdir -p $(VENV)/tmp
	$(PIP) install --editable ".[$*]"
	@rm -rf $(VENV)/tmp
	@touch $@

# An environment that is there already is completed, never removed.
$(VENV)/.created:
	@python=; for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python3.10 python); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "slowfast_zoo needs Python 3.10 or newer, found none. Name one: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
		echo "$$python cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)
	@touch $@
