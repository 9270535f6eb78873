.PHONY: demo test bench lint

# Two embedded backends behind a door on 127.0.0.1:8080, the status page on 127.0.0.1:9180.
demo: ; cargo run --release -- demo

# Installs what the tests need (Debian packages, once), then runs them all.
test: ; tests/install && cargo test

# CPU per request and per TLS handshake beside nginx and HAProxy; `make bench ARGS="--rounds 5 --seconds 10"`.
bench: ; cargo bench --bench side_by_side -- $(ARGS)

# Formatting, clippy and the documentation, warnings denied.
lint: ; cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
