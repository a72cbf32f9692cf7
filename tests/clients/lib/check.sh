# Sourced by the shell cases.

# check WHAT COMMAND...: COMMAND must succeed
check() {
  local what=$1
  shift
  if "$@"; then echo "ok - $what"; else echo "not ok - $what: $*"; fi
}

# equal WHAT GOT WANTED
equal() {
  if [ "$2" = "$3" ]; then echo "ok - $1"; else echo "not ok - $1: got '$2', wanted '$3'"; fi
}

# stamped <STREAM: each line with the time at which it came, in ms
stamped() {
  while IFS= read -r line; do echo "${EPOCHREALTIME/./} $line"; done | sed -E 's/^([0-9]+)[0-9]{3} /\1 /'
}

# spread PATTERN FILE: ms between the first and the last line of a stamped FILE that match
spread() {
  grep -E "^[0-9]+ $1" "$2" | awk 'NR == 1 { first = $1 } { last = $1 } END { print last - first }'
}
