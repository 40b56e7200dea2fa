#!/usr/bin/env bash
# Builds the shim without any library, as it is put into containers of exclusive work, and lays it beside the other programs:
# target/PROFILE/unidesk-shim-static. Apart from the main build, whose programs are all linked in the usual way.
#
#   scripts/build-shim.sh              for target/debug
#   scripts/build-shim.sh --release    for target/release
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

profile=debug
[[ ${1:-} != --release ]] || profile=release
target=${CARGO_TARGET_DIR:-target}
cargo rustc --locked --quiet -p shim --bin unidesk-shim "$@" --target-dir "$target/static" -- -C target-feature=+crt-static
mkdir -p "$target/$profile"
# In one step: a test or an agent may be about to read it.
cp "$target/static/$profile/unidesk-shim" "$target/$profile/.unidesk-shim-static.$$"
mv "$target/$profile/.unidesk-shim-static.$$" "$target/$profile/unidesk-shim-static"
