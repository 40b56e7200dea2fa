# This machine: what it is, what is missing on it, and how the missing is installed. Sourced after common.sh.
# shellcheck shell=bash

# Probed by what is used, not by package names: Docker may come from Docker's own packages, PostgreSQL from its own.
missing_packages=()
# need PACKAGE TEST...: notes the package unless the test succeeds.
need() {
    local package=$1
    shift
    [[ " ${missing_packages[*]} " != *" $package "* ]] || return 0
    "$@" >/dev/null 2>&1 || missing_packages+=("$package")
}
# shellcheck shell=bash

have() { command -v "$1" >/dev/null 2>&1; }

os_field() { (. /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""); }

is_debian_like() { [[ " $(os_field ID) $(os_field ID_LIKE) " == *" debian "* ]] && have apt-get; }

describe_machine() {
    local memory
    memory=$(awk '/^MemTotal/ {printf "%.1f GiB", $2 / 1048576}' /proc/meminfo)
    printf '%s %s, %s cores, %s' "$(os_field NAME | sed 's, GNU/Linux,,')" "$(os_field VERSION_ID)" "$(nproc)" "$memory"
}

# The newest PostgreSQL server programs here, or nothing. Debian keeps them out of PATH.
postgres_bin() {
    local dir
    if [[ -n ${UNIDESK_PG_BIN:-} ]]; then
        printf '%s' "$UNIDESK_PG_BIN"
        return
    fi
    while read -r dir; do
        if [[ -x $dir/postgres && -x $dir/initdb ]]; then
            printf '%s' "$dir"
            return
        fi
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV; have pg_config && pg_config --bindir)
    return 1
}

# install_missing: names what `need` found missing, then installs it. Says exactly what to do where it can't.
install_missing() {
    ((${#missing_packages[@]})) || return 0
    local packages=("${missing_packages[@]}") started
    missing_packages=()
    if ! is_debian_like; then
        die "missing on this machine: ${packages[*]} (Debian's names)" \
            "This script installs packages on Debian and Ubuntu only. Install these in your system's way, then run it again."
    fi
    if ((EUID != 0)); then
        die "missing on this machine: ${packages[*]}" \
            "Installing needs root. Run this, then the script again:" \
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}"
    fi
    say "    missing         ${packages[*]}: apt-get install -y --no-install-recommends ${packages[*]}"
    started=$(now_ms)
    if [[ " ${packages[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
        # Debian would make and start a cluster of its own, which nobody here uses.
        mkdir -p /etc/postgresql-common
        say 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    if [[ " ${packages[*]} " == *" prometheus "* && ! -e /etc/systemd/system/prometheus.service ]]; then
        # Debian would start it, to watch a machine that nobody asked it to.
        mkdir -p /etc/systemd/system
        ln -s /dev/null /etc/systemd/system/prometheus.service
    fi
    # A foreign package source that does not answer is no reason to stop: the installation is what counts.
    quietly "apt-get update" apt-get update -q || warn "going on with the package lists that are here"
    DEBIAN_FRONTEND=noninteractive quietly "installing" \
        apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "${packages[@]}" ||
        die "could not install ${packages[*]}" "apt's own words are above. Mend it, then run this again."
    # From Debian 13 on the client is a package of its own.
    if [[ " ${packages[*]} " == *" docker.io "* ]] && ! have docker; then
        DEBIAN_FRONTEND=noninteractive quietly "installing docker-cli" apt-get install -y -q --no-install-recommends docker-cli
    fi
    say "    installed       $(took "$started")"
}

# need_rust: the toolchain is the one thing that is not installed here, since there are several good ways to have it.
need_rust() {
    # rustup's default place, for shells that were opened before it was installed.
    have cargo || PATH="$PATH:$HOME/.cargo/bin"
    have cargo || die "Rust is missing: no cargo in PATH" "Install it from https://rustup.rs, then run this again."
    local have_version want_version
    have_version=$(rustc --version | awk '{print $2}')
    want_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if [[ $(printf '%s\n' "$want_version" "${have_version%%-*}" | sort -V | head -n 1) != "$want_version" ]]; then
        die "Rust $have_version is too old: $want_version or later is needed" "rustup update stable"
    fi
    # shellcheck disable=SC2034 # for the caller
    rust_version=$have_version
}

# need_build: what the build of the workspace takes beside Rust (C code of Git and TLS libraries).
need_build() {
    need gcc have cc
    need libc6-dev test -e /usr/include/stdlib.h
    need git have git
    need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
}

# need_platform: what a platform with one local node takes.
need_platform() {
    need postgresql postgres_bin
    need docker.io have dockerd
    need docker.io have docker
    need iptables have iptables
    need git have git
    need busybox-static have_static_busybox
}
have_static_busybox() { have busybox && ! ldd "$(command -v busybox)"; }
