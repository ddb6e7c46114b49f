# What a developer does here. `make` alone lists it.
#
# Whatever a target needs beside Rust and Python 3 it fetches itself, into ~/.cache/kthena (KTHENA_CACHE moves it).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

FILTER ?= ext-proc

.PHONY: help demo test lint fmt bench generate tools wasm

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: ## the whole system on this machine: Envoy, two pickers (or FILTER=wasm), a controller and a simulated fleet (DEMO_SECONDS=N ends by itself)
	@FILTER=$(FILTER) e2e/tools/demo

test: lint tools wasm ## everything that must hold: lints, unit tests, stories on a real Envoy, the demo
	cargo build --workspace --bins
	ENVOY_BIN="$$(e2e/tools/envoy)" cargo test --workspace --lib --bins --tests
	cargo test --workspace --doc

lint: ## formatting, clippy, rustdoc, and that the core builds for wasm32
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	e2e/tools/wasm-check

wasm: ## the wasm filter for wasm32-unknown-unknown, its size and imports checked
	@e2e/tools/wasm

fmt: ## format the sources
	cargo fmt --all

bench: ## overhead side by side with a bare Envoy and a no-op ext_proc: table, and target/bench/path.jsonl
	@e2e/tools/bench

generate: ## write the generated code, the table of errors and the corpus of parity again
	GENERATE=1 cargo test --quiet -p kthena-e2e --test generated
	GENERATE=1 cargo test --quiet -p kthena-gateway-api --test definitions
	@e2e/tools/kube-parts >/dev/null
	GENERATE=1 cargo test --quiet -p kthena-e2e --test chart rendered::it_renders
	GENERATE=1 cargo test --quiet -p kthena-scheduler --lib exchange::tests::errors
	GENERATE=1 cargo test --quiet -p kthena-e2e --test parity

tools: ## fetch the real parts that tests and demo start
	@e2e/tools/envoy >/dev/null
	@e2e/tools/clients >/dev/null
	@e2e/tools/kube-parts >/dev/null
