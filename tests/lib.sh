# Sourced by the scripts tests/*/run: installs what they need, and builds what they run.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
clients=$root/tests/clients

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }

# debian NAME...   Installs the packages of Debian that are missing. Scripts that run at the same time take turns.
debian() {
  local missing=() package
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  (
    flock 9
    # Packages of servers start them, and each script starts its own.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
  ) 9>/var/lock/tower-stream-tests
}

# Installs what requirements.txt in the current directory lists into .venv.
python_packages() {
  command -v python3 >/dev/null || debian python3
  python3 -c 'import ensurepip' 2>/dev/null || debian python3-venv
  cmp -s requirements.txt .venv/installed && return
  say "installing from requirements.txt"
  python3 -m venv --clear .venv
  .venv/bin/pip -q --disable-pip-version-check install -r requirements.txt
  cp requirements.txt .venv/installed
}

# Installs what tests/clients/package.json lists into tests/clients/node_modules.
npm_packages() {
  command -v node >/dev/null || debian nodejs
  command -v npm >/dev/null || debian npm
  (
    flock 9
    cmp -s "$clients/package.json" "$clients/node_modules/.installed" && exit
    say "installing from package.json"
    cd "$clients"
    npm install --silent --no-package-lock --no-audit --no-fund
    cp package.json node_modules/.installed
  ) 9>/var/lock/tower-stream-npm
}

# Builds the demo server and the programs beside it, unless DEMO_BIN names one that has them beside it already (as CI does, whose
# `cargo test --workspace` has built them). Sets DEMO_BIN, and BIN to its directory.
programs() {
  if [ -z "${DEMO_BIN:-}" ]; then
    say "building the demo server"
    (cd "$root" && cargo build --quiet -p e2e --bins --examples && cargo build --quiet -p stream-load)
    DEMO_BIN=${CARGO_TARGET_DIR:-$root/target}/debug/demo-under-test
  fi
  [ -x "$DEMO_BIN" ] || die "no demo server at $DEMO_BIN"
  BIN=$(dirname "$DEMO_BIN")
  export DEMO_BIN BIN
}

# The sum of a file with a line `ok - ..` or `not ok - ..` for each check of a program that ended with this status: a
# program that died, timed out or checked nothing has failed, whatever it printed.
#
# verdict FILE STATUS
verdict() {
  local passed failed
  passed=$(grep -c '^ok - ' "$1" || true)
  failed=$(grep -c '^not ok - ' "$1" || true)
  if [ "$failed" -eq 0 ] && { [ "$2" -ne 0 ] || [ "$passed" -eq 0 ]; }; then
    echo "not ok - the program ended with status $2 after $passed checks"
    failed=1
  fi
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}
