# Sourced by tests/clients/run and tests/page/run: installs what they need.
clients=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

apt_updated=
# debian NAME...   Installs the packages of Debian that are missing.
debian() {
  local missing=() package
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  [ -n "$apt_updated" ] || { apt-get -qq update; apt_updated=1; }
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
}

# Installs what tests/clients/package.json lists into tests/clients/node_modules.
npm_packages() {
  command -v node >/dev/null || debian nodejs
  command -v npm >/dev/null || debian npm
  if ! cmp -s "$clients/package.json" "$clients/node_modules/.installed"; then
    say "installing from package.json"
    (cd "$clients" && npm install --silent --no-package-lock --no-audit --no-fund)
    cp "$clients/package.json" "$clients/node_modules/.installed"
  fi
}
