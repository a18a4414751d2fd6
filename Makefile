# The few things that one does here. `make` lists them.

# Cargo's own variables hold: CARGO_TARGET_DIR, CARGO_BUILD_JOBS, …
CARGO ?= cargo
# Tests wait more than they compute.
RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))
export RUST_TEST_THREADS
BINARY = $(or $(CARGO_TARGET_DIR),target)/debug/site-recovery

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench check crds image

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Bring up everything on this machine and protect virtual machines (ONCE=1: run to the end and exit)
	$(CARGO) build --locked
	$(BINARY) lab up $(if $(ONCE),--once)

test: ## Run all tests; the first run obtains what they need, which takes some minutes
	$(CARGO) test --locked

soak: ## Run many schedules of crashes and faults (SOAK=number, 1000 by default); CAMPAIGN_SEED=seed replays one
	SOAK=$(or $(SOAK),1000) $(CARGO) test --locked --test it campaign::whatever -- --nocapture

bench: ## Measure copies and changes side by side with other tools, fleets, and idle costs
	$(CARGO) bench --locked

check: ## Format, lints, dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --version 0.20.2 --locked --debug
	$(CARGO) deny --locked check bans licenses sources

crds: ## Write the CustomResourceDefinitions to crds/ and into the chart
	$(CARGO) run --locked --quiet -- crds --output crds
	$(CARGO) run --locked --quiet -- crds --output charts/site-recovery/files/crds

image: ## Make the container image, without a container engine: target/image/site-recovery.tar
	CARGO=$(CARGO) .ci/image
