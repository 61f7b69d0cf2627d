# Everything lives in .venv and the cache folder (MOP_CACHE, by default ~/.cache/mop).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format docs clean nightly bench-house bench-engine bench-figures bench-fit bench-fit-speed bench-paper bench-blackbox bench-llamacpp bench-trust

demo: .venv/.ready
	$(BIN)/mop demo runs/demo

# One worker per core, one thread each: threads that wait for each other waste two cores.
test: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=95

# What takes an hour or more: the slow tests, and a thousand kills.
nightly: .venv/.ready
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/kills.py --chain 500 --remote 500

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.ready
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_house.py

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .coverage

# Rivals for the engine's benchmark live in an environment of their own, on top of .venv.
.venv-bench/.ready: .venv/.ready
	$(BIN)/python -m venv .venv-bench
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" > $$(.venv-bench/bin/python -c 'import site; print(site.getsitepackages()[0])')/parent.pth
	.venv-bench/bin/python -m pip install --quiet lm-eval xllamacpp
	touch $@

bench-engine: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/bench_engine.py

# The demo's simulation through llama.cpp's server; needs runs/demo. ARGS="--limit 8" is a try.
bench-llamacpp: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/bench_llamacpp.py $(ARGS)

# PICLe fine-tunes a model.
.venv/.picle: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev,picle]'
	touch $@

# Hours on two cores; every piece is kept, so it may be stopped and started again. ARGS="--minutes 50" does a part.
bench-paper: .venv/.picle
	$(BIN)/python benchmarks/bench_paper.py $(ARGS)

bench-blackbox: .venv/.ready
	$(BIN)/python benchmarks/bench_blackbox.py

# The tables take hours of scoring, once; they lie in the cache folder and may be interrupted at any moment.
bench-fit: .venv/.ready
	$(BIN)/python benchmarks/bench_fit.py

# Planted truth for every reported figure; resumable. ARGS="--only ranks k" does a part.
bench-figures: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_figures.py $(ARGS)

# Counts of the source, each with its limit: seconds.
bench-house: .venv/.ready
	$(BIN)/python benchmarks/bench_house.py

bench-fit-speed: .venv/.ready
	$(BIN)/python benchmarks/bench_fit_speed.py

# Broken tables, fuzzing, kills, attacks, real clients: half an hour. ARGS="--only tables" does a part.
bench-trust: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_trust.py $(ARGS)
