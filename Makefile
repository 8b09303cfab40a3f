# Every target sets up what it needs, on a machine that has Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
comma := ,
SOURCES := proto models training server client cli tests benchmarks examples docs/hooks docs/images

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check format docs picture proto sync-client vectors fuzz soak attack bench gate-power verdicts build zoo results profiles clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The pins of constraints.txt without their hashes: pip takes no editable project, and no wheel of ours, beside a hash.
$(VENV)/pins.txt: constraints.txt | $(BIN)/python
	@sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' constraints.txt > $@

# Prints the sections $(1) of constraints.txt.
sections = awk -v wanted=' $(1) ' '/^\# section: / {shown = index(wanted, " " $$3 " ")} shown' constraints.txt

# torch may be installed already, or lie in a folder that pip's configuration names. Otherwise pip chooses among its
# builds before it sees the hashes: with them, it would prefer the build of the index, and gigabytes of CUDA libraries.
$(VENV)/.ready-with-torch: $(VENV)/pins.txt
	@$(call sections,torch) > $(VENV)/torch.txt
	@$(PIP) --require-hashes --no-deps --no-index --requirement $(VENV)/torch.txt 2> /dev/null \
	|| { $(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --constraint $(VENV)/pins.txt \
		--dest $(VENV)/torch torch \
	&& $(PIP) --require-hashes --no-deps --no-index --find-links $(VENV)/torch --requirement $(VENV)/torch.txt \
	&& rm -rf $(VENV)/torch; }
	@touch $@

# Installs the sections $(1) of constraints.txt, each file checked by its hash, and then the project with the extras $(2),
# which then lacks nothing but what a CUDA build of torch asks for.
define install
	@$(call sections,$(1)) > $(VENV)/requirements.txt
	$(PIP) --require-hashes --no-deps --requirement $(VENV)/requirements.txt
	$(PIP) --constraint $(VENV)/pins.txt --no-build-isolation --editable '.[$(2)]'
endef

# Two stamps, since the demo needs none of the developer's tools.
$(VENV)/.ready-to-run: pyproject.toml constraints.txt | $(VENV)/pins.txt $(VENV)/.ready-with-torch
	@echo "installing thetaprime with its server and training extras (a few minutes the first time)"
	$(call install,run,server$(comma)training)
	@touch $@

$(VENV)/.ready-to-develop: pyproject.toml constraints.txt | $(VENV)/pins.txt $(VENV)/.ready-with-torch
	@echo "installing thetaprime with everything a developer needs (a few minutes the first time)"
	$(call install,run develop,dev)
	@touch $@ $(VENV)/.ready-to-run

$(VENV)/.ready-to-measure: $(VENV)/.ready-to-develop
	@echo "installing what the benchmarks compare with"
	$(call install,run develop measure,bench)
	@touch $@

$(VENV)/.ready-to-fuzz: $(VENV)/.ready-to-develop
	$(call install,run develop fuzz,fuzz)
	@touch $@

$(VENV)/.ready-to-maintain: $(VENV)/.ready-to-develop
	$(call install,run develop maintain,dev$(comma)maintain)
	@touch $@

demo: $(VENV)/.ready-to-run ## Watch a policy adapt to an unseen goal through a real server.
	$(BIN)/thetaprime demo $(DEMO)

# The tests wait for servers as much as they compute. A file's tests stay in one process, and share its fixtures.
WORKERS ?= 2
RUN_TESTS := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: check ## Run every check and every test.
	$(RUN_TESTS) $(PYTEST)

test-fast: $(VENV)/.ready-to-develop ## Run the tests that take less than two seconds each.
	$(RUN_TESTS) -m "not slow" $(PYTEST)

check: $(VENV)/.ready-to-develop ## Lint, types, import rules, spelling, generated code.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/codespell $(SOURCES) docs README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md pyproject.toml Makefile
	@$(BIN)/python benchmarks/results.py --check
	@$(BIN)/python benchmarks/speed.py --check
	@$(BIN)/python benchmarks/verdicts/page.py --check
	@$(BIN)/python models/document_profiles.py --check
	@$(MAKE) --no-print-directory check-proto check-sync-client

docs: $(VENV)/.ready-to-develop ## Build the documentation site into build/site, warnings as errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

format: $(VENV)/.ready-to-develop ## Format the code and mend what lint can mend.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# Generates the code of the wire contract into the folder $(1).
define generate
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
		--python_out=$(1) --pyi_out=$(1) proto/thetaprime/v1/*.proto
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
		--grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) proto/thetaprime/v1/*_service.proto
endef

proto: $(VENV)/.ready-to-develop ## Generate the code of the wire contract.
	$(call generate,proto)

.PHONY: check-proto
check-proto: $(VENV)/.ready-to-develop
	@rm -rf build/proto && mkdir -p build/proto
	@$(call generate,build/proto)
	@for file in $$(cd build/proto && find . -type f); do \
		cmp -s build/proto/$$file proto/$$file || { echo "proto/$$file is out of date: run make proto"; exit 1; }; \
	done
	@echo "generated code is up to date"

sync-client: $(VENV)/.ready-to-develop ## Derive the synchronous client from the asynchronous one.
	$(BIN)/python client/derive_sync.py client/thetaprime/client/_sync

.PHONY: check-sync-client
check-sync-client: $(VENV)/.ready-to-develop
	@rm -rf build/sync-client
	@$(BIN)/python client/derive_sync.py build/sync-client
	@for file in $$(cd build/sync-client && find . -type f); do \
		cmp -s build/sync-client/$$file client/thetaprime/client/_sync/$$file \
		|| { echo "client/thetaprime/client/_sync/$$file is out of date: run make sync-client"; exit 1; }; \
	done
	@echo "the synchronous client is up to date"

picture: $(VENV)/.ready-to-run ## Film the README's moving picture again (needs EGL or OSMesa).
	$(BIN)/python docs/images/record_adaptation.py

vectors: $(VENV)/.ready-to-develop ## Write the test vectors and the worked example for authors of clients.
	$(BIN)/python -m tests.examples.vectors

ORT_WEB := 1.30.0
WEB_ASSETS := cli/thetaprime/cli/web/assets/ort

.PHONY: web-assets
web-assets: ## Fetch the runtime of the demo's page again (needs npm).
	rm -rf build/ort-web && mkdir -p build/ort-web
	cd build/ort-web && npm pack --silent onnxruntime-web@$(ORT_WEB) && tar xzf onnxruntime-web-$(ORT_WEB).tgz
	cp build/ort-web/package/dist/ort.wasm.bundle.min.mjs $(WEB_ASSETS)/
	gzip -9 -n -c build/ort-web/package/dist/ort-wasm-simd-threaded.wasm > $(WEB_ASSETS)/ort-wasm-simd-threaded.wasm.gz

fuzz: $(VENV)/.ready-to-fuzz ## Search for bytes that a parser cannot stand, RUNS=1000000 times.
	$(BIN)/python -m tests.fuzz.run

soak: $(VENV)/.ready-to-develop ## Kill a server under its clients, KILLS=1000 times, and watch it for MINUTES=60.
	$(BIN)/python -m tests.durability.soak

attack: $(VENV)/.ready-to-develop ## Attack a server beside an honest client, for MINUTES=10.
	$(BIN)/python -m tests.attack.run

ROUNDS ?= 1000

bench: $(VENV)/.ready-to-measure ## Measure against the budgets; writes benchmarks/results.json and docs/speed.md.
	$(BIN)/python benchmarks/run.py $(BENCH)

gate-power: $(VENV)/.ready-to-develop ## Measure what the on-policy test refuses, in ROUNDS=1000 of each case; writes docs/trust.md.
	$(BIN)/python benchmarks/gate.py --rounds $(ROUNDS)

MINUTES ?= 10

defaults: $(VENV)/.ready-to-run ## Train FAMILY=families:CartPole by the defaults for MINUTES=10, and score it; writes docs/your-own-tasks.md.
	$(BIN)/python benchmarks/defaults/run.py $(FAMILY) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

verdicts: $(VENV)/.ready-to-develop ## Measure verdicts for MINUTES=10 more, CASES="scale harm", IN_PROCESS=1; writes docs/trust-in-adaptation.md.
	$(BIN)/python benchmarks/verdicts/run.py --minutes $(MINUTES) \
		$(if $(CASES),--cases $(CASES)) $(if $(SESSIONS),--sessions $(SESSIONS)) $(if $(IN_PROCESS),--in-process)
	$(BIN)/python benchmarks/verdicts/page.py --measure

pin: $(VENV)/.ready-to-maintain ## Write constraints.txt again, with the hash of every file, after a change of pyproject.toml.
	$(BIN)/python -m tests.dependencies.pin

audit: $(VENV)/.ready-to-maintain ## Look every pinned version up in databases of advisories; fails where none was reached.
	$(BIN)/python -m tests.dependencies.audit

floors: $(VENV)/.ready-to-run ## Run the client's tests with the lowest versions that pyproject.toml allows.
	rm -rf build/floors && $(PYTHON) -m venv build/floors
	$(BIN)/python -m tests.dependencies.floors > build/floors/requirements.txt
	build/floors/bin/python -m pip --disable-pip-version-check install --quiet --requirement build/floors/requirements.txt
	build/floors/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --editable .
	build/floors/bin/python -m pytest -m "not slow" --ignore tests/client/test_minari.py tests/client tests/wire tests/dependencies

build: $(VENV)/.ready-to-develop ## Make wheels and sdist, and try the wheel in an empty environment.
	rm -rf dist build/try
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --wheel --outdir dist cli/web
	$(PYTHON) -m venv build/try
	build/try/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(VENV)/pins.txt dist/thetaprime-*.whl
	cd build && try/bin/thetaprime --help > /dev/null
	cd build && try/bin/python -c "import importlib.util as u, thetaprime.client; assert u.find_spec('torch') is None"
	cd build && try/bin/thetaprime demo --web 2>&1 | grep -q "pip install 'thetaprime\[web\]'"
	build/try/bin/python -m pip --disable-pip-version-check install --quiet --no-deps dist/thetaprime_web-*.whl
	cd build && try/bin/python -c "from thetaprime.cli.web import page; [page.read_asset(a.file) for a in page.ASSETS.values()]"
	@echo "the wheel works without extras, and without torch; the page comes with the other wheel"; ls -l dist

# The shipped meta-policies: iterations of the pretrained policy and of the oracle, and what the card says first.
ZOO := point-navigation half-cheetah-direction half-cheetah-velocity ant-direction ant-velocity
point-navigation := 100 2500
half-cheetah-velocity := 80 610
# MAML as published, which is compared with the policies of the others: make zoo-half-cheetah-direction-maml
PUBLISHED := point-navigation half-cheetah-direction half-cheetah-velocity
measure-point-navigation-maml := --tasks 40 --later-step-factor 0.4
measure-half-cheetah-direction-maml := --tasks 8 --adapted-std-factor 0.25 --later-step-factor 0.25
measure-half-cheetah-velocity-maml := --tasks 8 --exploration-std-factor 1.5 --adapted-std-factor 0.25 --later-step-factor 0.25
measure-half-cheetah-direction := --adapted-std-factor 0.25
measure-half-cheetah-velocity := --adapted-std-factor 0.25
measure-ant-direction := --tasks 4 --exploration-std-factor 4 --adapted-std-factor 0.25
measure-ant-velocity := --exploration-std-factor 2 --adapted-std-factor 0.125
describe-point-navigation := Walks to a goal in the plane that only the reward knows.
describe-half-cheetah-direction := Runs forward or backward: only the reward knows which.
describe-point-navigation-maml := MAML as published: every parameter adapts, to walk to a goal that only the reward knows.
describe-half-cheetah-direction-maml := MAML as published: every parameter adapts, to run forward or backward.
describe-half-cheetah-velocity-maml := MAML as published: every parameter adapts, to run at a velocity between 0 and 2 m/s.
describe-half-cheetah-velocity := Runs at a velocity between 0 and 2 m/s that only the reward knows.
describe-ant-velocity := Runs on four legs at a velocity between 0 and 3 m/s that only the reward knows.
describe-ant-direction := Walks forward or backward on four legs: only the reward knows which.

zoo: $(ZOO:%=zoo-%) $(PUBLISHED:%=zoo-%-maml) ## Train the shipped meta-policies again, from their configurations (hours).

# One of them: make zoo-half-cheetah-direction
zoo-%: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/$*.toml --output runs/$*/maml
	$(BIN)/thetaprime train --config training/configs/$*.toml --method pretrained \
		--iterations $(word 1,$($*)) --output runs/$*/pretrained
	$(BIN)/thetaprime train --config training/configs/$*.toml --method oracle \
		--iterations $(word 2,$($*)) --output runs/$*/oracle
	$(MAKE) --no-print-directory export-$*

# Its first 80 iterations had half as many tasks.
zoo-half-cheetah-velocity-maml: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/half-cheetah-velocity-maml.toml \
		--output runs/half-cheetah-velocity-maml/maml --iterations 80 --meta-batch-size 10
	$(BIN)/thetaprime train --config training/configs/half-cheetah-velocity-maml.toml \
		--output runs/half-cheetah-velocity-maml/maml --amend
	$(MAKE) --no-print-directory export-half-cheetah-velocity-maml

zoo-%-maml: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/$*-maml.toml --output runs/$*-maml/maml
	$(MAKE) --no-print-directory export-$*-maml

# A first meta-policy learned to walk from scratch, in stages: with smaller batches at first, and with all trajectories to
# adapt from. An oracle began where its adaptation arrived, and walked faster. The shipped meta-policy began from the oracle.
FIRST := --meta-batch-size 4 --outer-epochs 10 --support-trajectories 20
SCRATCH := --outer-lr 0.001 --adaptation-context-lr 20 --adaptation-inner-lr-schedule 1 --adaptation-inner-lr-schedule 0.1 \
	--no-adaptation-normalize-gradient
zoo-ant-direction: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/first \
		$(SCRATCH) $(FIRST) --iterations 450
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/first \
		$(SCRATCH) --amend --meta-batch-size 4 --outer-epochs 15 --support-trajectories 5 --iterations 550
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/first \
		$(SCRATCH) --amend --outer-epochs 15 --support-trajectories 5 --iterations 613
	$(BIN)/thetaprime export runs/ant-direction/first --name ant-direction-first --output runs/zoo --force \
		--adapted-std-factor 0.25 --tasks 2 --calibration-tasks 0 --description "$(describe-ant-direction)"
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/oracle \
		$(SCRATCH) --outer-epochs 15 --support-trajectories 5 \
		--method oracle --warm-start runs/zoo/ant-direction-first/1 --iterations 200
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/maml \
		--warm-start runs/ant-direction/oracle
	$(BIN)/thetaprime train --config training/configs/ant-direction.toml --output runs/ant-direction/pretrained \
		$(SCRATCH) --method pretrained --meta-batch-size 4 --outer-epochs 15 --support-trajectories 5 --iterations 80
	$(MAKE) --no-print-directory export-ant-direction

# Two began from an oracle's run, which then went on.
zoo-half-cheetah-direction: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/half-cheetah-direction.toml --method oracle --iterations 600 \
		--output runs/half-cheetah-direction/oracle
	$(BIN)/thetaprime train --config training/configs/half-cheetah-direction.toml \
		--warm-start runs/half-cheetah-direction/oracle --output runs/half-cheetah-direction/maml
	$(BIN)/thetaprime train --config training/configs/half-cheetah-direction.toml --method oracle --iterations 690 \
		--output runs/half-cheetah-direction/oracle --resume
	$(BIN)/thetaprime train --config training/configs/half-cheetah-direction.toml --method pretrained --iterations 100 \
		--output runs/half-cheetah-direction/pretrained
	$(MAKE) --no-print-directory export-half-cheetah-direction

zoo-ant-velocity: $(VENV)/.ready-to-run
	$(BIN)/thetaprime train --config training/configs/ant-velocity.toml --output runs/ant-velocity/oracle \
		--method oracle --iterations 450
	$(BIN)/thetaprime train --config training/configs/ant-velocity.toml --output runs/ant-velocity/maml \
		--warm-start runs/ant-velocity/oracle
	$(BIN)/thetaprime train --config training/configs/ant-velocity.toml --output runs/ant-velocity/oracle \
		--method oracle --iterations 650 --resume
	$(BIN)/thetaprime train --config training/configs/ant-velocity.toml --output runs/ant-velocity/pretrained \
		--method pretrained --meta-batch-size 4 --iterations 80
	$(MAKE) --no-print-directory export-ant-velocity

export-%-maml: $(VENV)/.ready-to-run
	$(BIN)/thetaprime export runs/$*-maml/maml --pretrained $* --oracle $* --name $*-maml --output runs/zoo --force \
		--seed 11 --seed 12 --seed 13 $(measure-$*-maml) --description "$(describe-$*-maml)"

# Measures finished runs on three seeds that had no part in any choice, and writes the artifact.
export-%: $(VENV)/.ready-to-run
	$(BIN)/thetaprime export runs/$*/maml --pretrained runs/$*/pretrained --oracle runs/$*/oracle \
		--name $* --output runs/zoo --force --seed 11 --seed 12 --seed 13 $(measure-$*) --description "$(describe-$*)"

results: $(VENV)/.ready-to-run ## Write docs/results.md from what was measured in the zoo.
	$(BIN)/python benchmarks/results.py

profiles: $(VENV)/.ready-to-run ## Write the tables of docs/onnx.md from the files of each profile.
	$(BIN)/python models/document_profiles.py

clean: ## Remove everything that was made here.
	rm -rf $(VENV) build dist runs demo-output examples/node/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
