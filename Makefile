.PHONY: demo test bench cost pgo test-pgo fuzz lint

# Two embedded backends behind a door on 127.0.0.1:8080, the status page on 127.0.0.1:9180.
demo: ; cargo run --release -- demo

# Installs what the tests need (Debian packages, once), then runs them all.
test: ; tests/install && cargo test

# bgproxy beside nginx, HAProxy and Caddy, within 20 minutes; `make bench ARGS="--quick"` is within 3. What it measures
# and how to read it: docs/benchmarks.md.
bench: ; cargo build --release && cp target/release/bgproxy target/bgproxy-measured && \
	cargo bench --bench side_by_side -- --door target/bgproxy-measured $(ARGS)

# Instructions, allocations and system calls per request beside those committed; `make cost ARGS=--accept` writes these.
cost: ; tests/install && cargo bench --bench cost -- $(ARGS)

# Both binaries, built guided by a profile of everyday load, into target/pgo/release/.
pgo: ; tests/install && benches/pgo

# The end-to-end tests with those two, but for the tests that crash the door where no release build can be crashed.
test-pgo: ; BGPROXY_BUILD=target/pgo/release cargo test --test e2e -- \
	--skip a_crash_between_any_two_effects --skip whatever_crash_comes_between

# Each fuzz target for a minute, or for FUZZ_SECONDS; ARGS names some of them.
fuzz: ; tests/install && fuzz/run $(ARGS)

# Formatting, clippy and the documentation, warnings denied.
lint: ; cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
