# Sourced by demo, test and check: makes .venv with pinned packages, once. Usage: prepare_environment requirements.txt …
# Needs Python >= 3.11 with venv and nothing else; uses uv where it is on PATH. Writes nothing outside the checkout.

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

find_python() {
    local name
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "Python 3.11 or newer is needed, and none was found. Install it, or set PYTHON=/path/to/python3."
}

prepare_environment() {
    local stamp=".venv/.installed-$(cat "$@" | sha256sum | cut -c1-16)"
    [ -e "$stamp" ] && return
    if [ ! -x .venv/bin/python ]; then
        local python
        python=$(find_python)
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            die "The venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"
        "$python" -m venv .venv
    fi
    say "Installing Python packages into .venv (once)"
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    if command -v uv >/dev/null; then
        uv pip install --quiet --compile-bytecode --python .venv/bin/python "${files[@]}"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "${files[@]}"
    fi
    touch "$stamp"
}
