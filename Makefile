# The one task list, for people and CI alike. `make` alone prints it.
# PYTHON: the Python 3.11 that .venv is made from.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Setting CXXFLAGS drops -O3 from pydensecrf2's build and makes its CRF 6 to 10 times slower.
unexport CXXFLAGS CFLAGS

.PHONY: help environment demo server test test-all fuzz lint bench tour paper clean
help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# conda.yaml is the one list of run-time dependencies: its pip section is what is installed here.
$(VENV)/environment: conda.yaml
	@$(PYTHON) src/check_machine.py
	$(PYTHON) -m venv $(VENV)
	sed -n '/- pip:/,$$ s/^ *- \([A-Za-z].*==.*\)/\1/p' conda.yaml > $(VENV)/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

# $(call group,NAME): the packages of a dependency group of pyproject.toml.
group = $$($(VENV)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['$(1)'])")
$(VENV)/server: $(VENV)/environment pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(call group,server)
	touch $@

$(VENV)/development: $(VENV)/server
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(call group,dev)
	touch $@

environment: $(VENV)/environment  ## .venv with the run-time dependencies

demo: $(VENV)/environment  ## train, tune, evaluate and register on synthetic cases, about 5 minutes on 2 cores
	mlflow run . --env-manager local

# SERVER_FOLDER SERVER_HOST SERVER_PORT SERVER_DATABASE_PORT SERVER_BUCKET_PORT SERVER_ALLOWED_HOSTS: see docs/server.md.
server: $(VENV)/server  ## a lab's tracking server: PostgreSQL, a bucket, users and passwords (docs/server.md)
	@PYTHONPATH=src exec python -m lab_server

lint: $(VENV)/development  ## style, types, and that imports point one way
	ruff check .
	ruff format --check .
	mypy
	PYTHONPATH=src lint-imports

# One process more than cores: many tests wait for a server or for another process.
PYTEST = python -m pytest --numprocesses $$(($$(nproc) + 1)) --maxprocesses 8 --dist loadscope --no-loadscope-reorder
test: $(VENV)/development  ## the whole suite, on all cores (python -m pytest FILE runs a part of it)
	$(PYTEST) -m "not long"

test-all: $(VENV)/development  ## the suite and what takes minutes: faults at random moments, load, the clock
	$(PYTEST)

fuzz: $(VENV)/development  ## thousands of damaged scans and requests, sent to a served model; FUZZ_INPUTS=5000 of each kind
	FUZZ_INPUTS=$(or $(FUZZ_INPUTS),5000) $(PYTEST) tests/tracking/test_served_fuzz.py tests/end_to_end/test_serving_faults.py

# nnU-Net, beside which `bench` measures, and what its predictor imports; it sees the environment, which does not see it.
$(VENV)/bench: bench/requirements.txt $(VENV)/environment
	rm -rf $@
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r $<

bench: $(VENV)/bench  ## speed beside its peers: a table, and bench.json; about 15 minutes on 2 cores
	PYTHONPATH=src python -m bench.run

tour: $(VENV)/development  ## the pictures of docs/tour.md, made anew; needs Chromium; about 8 minutes on 2 cores
	$(VENV)/bin/python docs/make_tour.py

# What `make paper` is run on: a data set in the layout isles2022, and its split; made where LESION_DATA has the recipe.
LESION_DATA ?= ../shared/data
PAPER_DATA ?= $(HOME)/.stroke-lesion/phantom60
PAPER_SPLIT ?= $(LESION_DATA)/phantom_split.csv
# What the page must say of the data; of those that make_phantom.py makes, this.
PHANTOM = The data are semi-synthetic and not ISLES: real lesion shapes (LESYMAP) in varied anatomy (ICBM-152), with noise, \
	bias and look-alikes. Such cases are easier than patients, and what holds here need not hold there. The command \
	**make paper** makes them, runs the experiments and writes this page.
PAPER_ABOUT ?= $(if $(filter phantom%,$(notdir $(PAPER_DATA:/=))),$(PHANTOM))
paper: $(VENV)/environment  ## the paper's claims as experiments, into docs/paper.md; about 40 minutes on 2 cores
	@test -d "$(PAPER_DATA)" || test -f "$(LESION_DATA)/make_phantom.py" || { echo "make paper: no data set in \
	$(PAPER_DATA), and no make_phantom.py in $(LESION_DATA) to make it with: give PAPER_DATA=FOLDER PAPER_SPLIT=" >&2; exit 1; }
	test -d "$(PAPER_DATA)" || { rm -rf "$(PAPER_DATA).part" && python "$(LESION_DATA)/make_phantom.py" \
		"$(PAPER_DATA).part" --subjects 60 --seed 0 && mv "$(PAPER_DATA).part" "$(PAPER_DATA)"; }
	python src/run.py reproduce --config conf/reproduce.yaml --data.root "$(PAPER_DATA)" \
		$(if $(PAPER_SPLIT),--data.split_file "$(PAPER_SPLIT)") --reproduce.document docs/paper.md \
		$(if $(PAPER_ABOUT),--reproduce.about "$(PAPER_ABOUT)") $(PAPER_SETTINGS)

clean:  ## remove .venv (data, runs and models stay)
	rm -rf $(VENV)
