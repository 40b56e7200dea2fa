# Docker: a daemon that answers, and the two images that everything here begins with. Sourced after machine.sh.
# shellcheck shell=bash disable=SC2154

base_image=debian:bookworm-slim
test_image=unidesk-test/busybox:latest
# shellcheck shell=bash

# start_docker: makes sure that a daemon answers. One that this script starts is stopped at its end; others are left alone.
start_docker() {
    have docker || die "the docker client is missing" "apt-get install -y docker.io (Debian 13: also docker-cli)"
    if docker info >/dev/null 2>&1; then return 0; fi
    local said socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
    said=$(docker info 2>&1 || true)
    if [[ $said == *"permission denied"* ]]; then
        die "Docker runs, but $(id -un) may not use it" \
            "sudo usermod -aG docker $(id -un), then log in again (or run this as root)"
    fi
    ((EUID == 0)) || die "no Docker daemon answers on $socket" "sudo systemctl start docker, then run this again"
    if [[ -d /run/systemd/system ]] && systemctl start docker 2>/dev/null && wait_until 30 docker info; then return 0; fi
    have dockerd || die "no Docker daemon answers on $socket, and dockerd is not installed" "apt-get install -y docker.io"
    mount_cgroups
    local log=$scratch/dockerd.log
    # A session of its own, so that Ctrl-C reaches this script first, which then stops what uses the daemon before it.
    setsid dockerd --pidfile "$scratch/dockerd.pid" >"$log" 2>&1 </dev/null &
    docker_pid=$!
    at_exit "stop_process $docker_pid 30"
    if ! wait_until 60 eval "docker info || ! kill -0 $docker_pid" || ! docker info >/dev/null 2>&1; then
        tail -n 20 "$log" | sed 's/^/  | /' >&2
        die "dockerd did not come up" "Its last words are above."
    fi
}

# Containers and bare machines often come without mounted cgroups, and dockerd then refuses to start.
mount_cgroups() {
    local controller
    mountpoint -q /sys/fs/cgroup || mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    [[ -z $(ls -A /sys/fs/cgroup) ]] || return 0
    while read -r controller; do
        mkdir -p "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || rmdir "/sys/fs/cgroup/$controller"
    done < <(awk '!/^#/ && $4 == 1 && $2 != 0 {print $1}' /proc/cgroups)
    # No controller of the old kind: the machine has the unified hierarchy only.
    if [[ -z $(ls -A /sys/fs/cgroup) ]]; then mount -t cgroup2 cgroup2 /sys/fs/cgroup; fi
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# ensure_base_image: Debian's small image under its usual name. Prints how it was had, in words that end a line.
ensure_base_image() {
    if has_image "$base_image"; then
        printf 'is here'
    elif pull_if_answered "$base_image"; then
        printf 'pulled'
    else
        make_base_image
        printf "no registry answers, so made from Debian's packages"
    fi
}

# pull_if_answered IMAGE: a registry that answers within a few seconds gets all the time it needs; another gets no more.
pull_if_answered() {
    local log=$scratch/pull.log pid
    docker pull "$1" >"$log" 2>&1 </dev/null &
    pid=$!
    wait_until 8 eval "grep -q 'Pulling from' '$log' || ! kill -0 $pid" || stop_process "$pid" 5
    wait "$pid" 2>/dev/null
}

make_base_image() {
    ((EUID == 0)) || die "the image $base_image is missing, and no registry answers" \
        "Making it from Debian's packages needs root: sudo $0"
    need debootstrap have debootstrap
    # Without its keys debootstrap could not check what it fetches.
    need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
    install_missing >&2
    local mirror=http://deb.debian.org/debian files=$scratch/debian
    # The mirror that this machine itself uses, if it is a Debian.
    if [[ $(os_field ID) == debian ]]; then
        mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
            grep -oE '^(deb |URIs:).*https?://[^ ]*debian/?( |$)' | grep -oE 'https?://[^ ]+' | head -n 1 || true)
        mirror=${mirror:-http://deb.debian.org/debian}
    fi
    quietly "debootstrap" debootstrap --variant=minbase bookworm "$files" "$mirror" ||
        die "could not make $base_image" "It needs a Debian mirror; debootstrap's own words are above."
    rm -rf "$files"/var/cache/apt/* "$files"/var/lib/apt/lists/* "$files"/var/log/* "$files"/usr/share/doc/*
    tar -C "$files" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$base_image" >/dev/null
    rm -rf "$files"
}

# ensure_test_image: two megabytes, from the static busybox of this machine: what tests run when any command will do.
ensure_test_image() {
    has_image "$test_image" && return 0
    have busybox || die "busybox is missing" "apt-get install -y busybox-static"
    local files=$scratch/busybox program applet
    program=$(readlink -f "$(command -v busybox)")
    if ! have_static_busybox >/dev/null 2>&1; then die "$program is not static" "apt-get install -y busybox-static"; fi
    mkdir -p "$files"/{bin,etc,home/user,root,tmp,usr/bin,var/tmp}
    chmod 1777 "$files/tmp" "$files/var/tmp"
    cp "$program" "$files/bin/busybox"
    for applet in $("$program" --list); do
        [[ $applet == busybox ]] || ln -s /bin/busybox "$files/bin/$applet"
    done
    ln -s /bin/env "$files/usr/bin/env"
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n' >"$files/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$files/etc/group"
    # Owners by number, so that a plain user makes the same image.
    tar -C "$files" --owner=0 --group=0 --exclude=./home/user -cf "$scratch/busybox.tar" .
    tar -C "$files" --owner=1000 --group=1000 -rf "$scratch/busybox.tar" ./home/user
    docker import --change 'CMD ["/bin/sh"]' "$scratch/busybox.tar" "$test_image" >/dev/null
    rm -rf "$files" "$scratch/busybox.tar"
}
