#!/usr/bin/env bash
# Makes sure that Docker has the tiny image that tests run, and prints its name. Tests call this by themselves.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/docker.sh

docker info >/dev/null 2>&1 || die "no Docker daemon answers" "scripts/test.sh starts one, or: sudo systemctl start docker"
# Several test processes may ask at once.
exec 8>"/tmp/unidesk-test-image-$EUID.lock"
flock 8
ensure_test_image
say "$test_image"
