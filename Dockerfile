# The container image: one static binary, and the authorities by which it knows Azure. `make image` makes the same
# without a container engine.

FROM rust:1.95.0-bookworm AS build
# What is installed, instead of what rust-toolchain.toml would add for developers.
ENV RUSTUP_TOOLCHAIN=1.95.0
ENV RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /source
COPY . .
# With a target of its own, the flags are not for what only runs while it is built.
RUN target="$(rustc --print host-tuple)" \
    && cargo build --locked --release --bin site-recovery --target "$target" \
    && strip --strip-debug -o /site-recovery "target/$target/release/site-recovery"

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /site-recovery /site-recovery
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/site-recovery"]
