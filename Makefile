# Two commands do everything: `make book` and `make test`. `make` alone lists the rest.

PYTHON   := .venv/bin/python
CHAPTERS := $(wildcard notebooks/*.ipynb)
# Not in _build, where nbmake does not look for notebooks.
EXECUTED := _executed

# Notebooks run without progress bars, and find the helper package beside them.
export STATEFUL_TFF_PROGRESS := 0
export PYTHONPATH := $(CURDIR)/notebooks

# A folder named from here is the same folder for a notebook, which runs elsewhere.
ifneq ($(shell test -e "$(STATEFUL_TFF_DATA)" && echo yes),)
export STATEFUL_TFF_DATA := $(shell realpath "$(STATEFUL_TFF_DATA)")
endif

.DEFAULT_GOAL := help
.PHONY: help book test lint export repository lock bench results editions lab pdf bundle doctor clean
.PHONY: test-helper test-notebooks test-half-stars test-site test-colab

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

# Sphinx does not repeat the warnings of pages it has read, so a failed build forgets them.
book: .venv/lock  ## execute the chapters that changed and build the site in _build/html
	$(PYTHON) tools/refresh_cache.py
	.venv/bin/jupyter-book build . -W -n --keep-going --quiet || { rm -rf _build/.doctrees; exit 1; }
	$(PYTHON) tools/editions.py _build/editions
	cp _build/editions/colab/*.ipynb _build/html/_sources/notebooks/
	cp _build/editions/notebooks.zip _build/html/
	@$(PYTHON) tools/print_times.py
	@echo "The book is ready: _build/html/index.html"

test: lint test-helper test-notebooks  ## check style, test the helper, run the chapters, on synthetic data

test-helper: .venv/lock
	$(PYTHON) -m pytest tests/unit -n 2 --dist loadfile

# Every chapter runs from top to bottom in a copy, with the solutions of its exercises put in.
test-notebooks: .venv/lock
	$(PYTHON) tools/prepare_chapters.py $(EXECUTED)
	STATEFUL_TFF_DATA=synthetic $(PYTHON) -m pytest --nbmake --overwrite --nbmake-timeout=600 -n 2 $(EXECUTED)
	$(PYTHON) -m pytest tests/chapters --executed=$(EXECUTED)

# The chapters on data, training and the store once more, on ratings in half stars.
test-half-stars: .venv/lock  ## run three chapters on the ml-latest-small that STATEFUL_TFF_DATA names
	$(PYTHON) tools/prepare_chapters.py $(EXECUTED)_half_stars
	cd $(EXECUTED)_half_stars && $(CURDIR)/$(PYTHON) -m pytest --nbmake --nbmake-timeout=600 -n 2 \
		01_*.ipynb 05_*.ipynb 11_*.ipynb

test-site: .venv/lock  ## check the built site in a headless browser
	$(PYTHON) -m pytest tests/site

# Makes the environment of the chapters once more, as Colab would: about 3 GB.
test-colab: .venv/lock  ## run chapters as in Colab, under Python 3.12 and 3.13
	$(PYTHON) -m pytest tests/colab

lint: .venv/lock  ## check style, stale exports, notebooks with outputs, the size of chapters
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) tools/export.py $(CHAPTERS)
	$(PYTHON) tools/budget.py $(CHAPTERS)

export: .venv/lock  ## write the exported cells to notebooks/stateful_tff and strip all outputs
	$(PYTHON) tools/export.py --write $(CHAPTERS)
	$(PYTHON) tools/repository.py

repository: .venv/lock  ## say where the book lives: make repository URL=https://github.com/OWNER/NAME
	$(PYTHON) tools/repository.py --set "$(URL)"
	$(PYTHON) tools/export.py --write $(CHAPTERS)

bench: .venv/lock .venv-bench/lock .venv-fedjax/lock .venv-torch/lock  ## measure speed on MovieLens-1M; writes experiments/results
	$(PYTHON) -m experiments.benchmarks.data_pipeline
	$(PYTHON) -m experiments.benchmarks.colab_bridge
	$(PYTHON) -m experiments.benchmarks.cohort_speed --outside .venv-bench/bin/python
	$(PYTHON) -m experiments.benchmarks.any_model_speed --outside .venv-fedjax/bin/python
	$(PYTHON) -m experiments.benchmarks.ranking_speed --outside .venv-torch/bin/python
	$(PYTHON) -m experiments.benchmarks.commit_costs
	$(PYTHON) -m experiments.kill_and_resume --kills 100 --process packed --record
	$(PYTHON) -m experiments.kill_and_resume --kills 100 --process stand-in --record
	$(PYTHON) -m experiments.kill_and_resume --kills 20 --process "per client" --record
	$(PYTHON) -m experiments.kill_and_resume --kills 40 --process stand-in --postgresql --record
	$(PYTHON) -m experiments.benchmarks.many_workers
	$(PYTHON) -m experiments.benchmarks.large_ratings
	$(PYTHON) -m experiments.growth --record

results: .venv/lock  ## repeat the long runs on MovieLens-1M; writes experiments/results and their figure
	$(PYTHON) -m experiments.studies.convergence
	$(PYTHON) -m experiments.studies.who_gains
	$(PYTHON) -m experiments.studies.why_forgetting_helps
	$(PYTHON) -m experiments.studies.as_in_one_place
	$(PYTHON) -m experiments.studies.information_or_cache
	$(PYTHON) -m experiments.studies.age_of_state
	$(PYTHON) -m experiments.studies.equal_budgets
	$(PYTHON) -m experiments.studies.personal_methods
	$(PYTHON) -m experiments.studies.kinds_of_state
	$(PYTHON) -m experiments.studies.privacy
	$(PYTHON) -m experiments.studies.ranking_leak
	$(PYTHON) -m experiments.studies.ranking_methods
	$(PYTHON) tools/draw_result.py

editions: .venv/lock  ## write notebooks that stand alone: for Colab, students and teachers
	$(PYTHON) tools/editions.py _build/editions

lab: .venv/lock .venv-lab/lock  ## open the chapters in JupyterLab, which comes with the book
	STATEFUL_TFF_PROGRESS=1 .venv-lab/bin/jupyter lab notebooks $(LAB)

pdf: .venv/lock  ## print the built site as one PDF, with links: _build/stateful_tff.pdf
	$(PYTHON) tools/print_book.py _build/html _build/stateful_tff.pdf

bundle: .venv/lock  ## pack the built site and the notebooks that stand alone, for use offline
	rm -f _build/stateful_tff.zip
	cd _build && ../$(PYTHON) -m zipfile -c stateful_tff.zip html editions
	@ls -lh _build/stateful_tff.zip

doctor: .venv/lock  ## print the versions that matter and run one federated mean
	@$(PYTHON) -c "from stateful_tff import session; session.doctor()"

lock: .venv/lock  ## resolve requirements.in into requirements.txt, here and for the benchmarks
	.venv/bin/uv pip compile requirements.in --override overrides.txt --output-file requirements.txt \
	  --universal --python-version 3.10 --generate-hashes --upgrade --quiet \
	  --custom-compile-command "make lock"
	.venv/bin/uv pip compile experiments/benchmarks/requirements.in \
	  --output-file experiments/benchmarks/requirements.txt --universal --python-version 3.11 \
	  --generate-hashes --upgrade --quiet --custom-compile-command "make lock"
	.venv/bin/uv pip compile tools/lab/requirements.in --output-file tools/lab/requirements.txt \
	  --universal --python-version 3.10 --generate-hashes --upgrade --quiet \
	  --custom-compile-command "make lock"
	$(PYTHON) tools/runtime_lock.py

# The environment: made when missing, made again when the lock says something else.
.venv/lock: requirements.txt
	@./environment.sh .venv

# What the benchmarks compare with cannot live in one environment with TFF.
.venv-bench/lock: experiments/benchmarks/requirements.txt .venv/lock
	@./environment.sh .venv-bench experiments/benchmarks/requirements.txt

.venv-fedjax/lock .venv-torch/lock: .venv-%/lock: experiments/benchmarks/requirements_%.txt .venv/lock
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install -qq -r $<
	@touch $@

# JupyterLab needs newer packages than TFF. Its Python 3 is the book's environment.
.venv-lab/lock: tools/lab/requirements.txt .venv/lock
	@./environment.sh .venv-lab tools/lab/requirements.txt
	$(PYTHON) -m ipykernel install --prefix .venv-lab --name python3 --display-name "Stateful TFF"

clean:  ## remove what was built; the environment and downloaded data stay
	rm -rf _build _executed* .pytest_cache .ruff_cache .hypothesis
