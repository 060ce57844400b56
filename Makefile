# make demo   train, evaluate and predict on embedded data, in minutes on a CPU
# make test   the tests;  make lint   style
# Both set up .venv first; running one again repeats only what is not done yet.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO := checkpoints/demo

# GNU OpenMP's threads spin while they wait, which is fastest alone and ten times slower beside anything else.
# Spinning briefly keeps nine tenths of the speed alone and half of it in company.
export GOMP_SPINCOUNT := 3000

.PHONY: demo test lint setup

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt Makefile
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or \
	    sys.exit('error: Python 3.11 or newer is needed: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt \
	    "pytest>=8" "pytest-xdist>=3.5" "ruff>=0.6" "pymatting>=1.1.13" "tensorboard>=2.15" \
	    "onnx>=1.17" "onnxscript>=0.5" "onnxruntime>=1.20"
	touch $@

demo: setup
	$(PY) train.py demo --run-dir $(DEMO) --auto-resume
	$(PY) eval.py --checkpoint $(DEMO)/best.pth --data-root data/embedded --benchmarks Embedded --out $(DEMO)/scores \
	    --overwrite
	$(PY) predict.py $$(ls data/embedded/val/im/*.jpg | head -n 8) \
	    --checkpoint $(DEMO)/best.pth --output $(DEMO)/mattes --overwrite
	@cat $(DEMO)/scores/table.txt
	@echo
	@echo "scores, as a page    $(DEMO)/scores/report.html"
	@echo "mattes and cut-outs  $(DEMO)/mattes/"
	@echo "curves               $(DEMO)/curves.png"
	@echo "previews             $(DEMO)/previews/"

# The tests' networks are too small for two threads to pay.
test: export OMP_NUM_THREADS := 1
test: setup
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
