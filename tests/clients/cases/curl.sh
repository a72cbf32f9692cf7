# curl: every protocol, exit codes that tell a cut stream from a whole one, files by range.
# debian: curl
. "$(dirname "$0")/../lib/check.sh"
curl --version | head -n 1

for version in http1.0 http1.1 http2-prior-knowledge; do
  out=$SCRATCH/$version

  # 10 records, 50 ms apart: the last is made 450 ms after the first
  curl -sSN --"$version" "$DEMO_URL/events?count=10&interval_ms=50" | stamped >"$out.events"
  equal "$version: curl reads /events to its end" "${PIPESTATUS[0]}" 0
  equal "$version: 10 events" "$(grep -c '^[0-9]* data: ' "$out.events")" 10
  check "$version: the first event came before the last was made" test "$(spread 'data: ' "$out.events")" -ge 225

  curl -sSN --"$version" "$DEMO_URL/lines?count=10&interval_ms=50" | stamped >"$out.lines"
  equal "$version: curl reads /lines to its end" "${PIPESTATUS[0]}" 0
  check "$version: the first line came before the last was made" test "$(spread '\{' "$out.lines")" -ge 225

  curl -sS --"$version" -o "$out.bin" "$DEMO_URL/files/random.bin"
  equal "$version: curl reads /files to its end" $? 0
  check "$version: the file arrived whole" cmp -s "$out.bin" "$SERVED_FILES/random.bin"
  curl -sS --"$version" -r 1000-1999999 -o "$out.part" -w '%{http_code}' "$DEMO_URL/files/random.bin" >"$out.status"
  equal "$version: a range is 206" "$(cat "$out.status")" 206
  check "$version: the range is what was asked for" \
    cmp -s "$out.part" <(tail -c +1001 "$SERVED_FILES/random.bin" | head -c 1999000)
done

# a transfer that broke off goes on where it stopped
head -c 1000000 "$SERVED_FILES/random.bin" >"$SCRATCH/resumed.bin"
curl -sS -C - -o "$SCRATCH/resumed.bin" "$DEMO_URL/files/random.bin"
check "a resumed download is whole" cmp -s "$SCRATCH/resumed.bin" "$SERVED_FILES/random.bin"

for path in ../Cargo.toml %2e%2e/Cargo.toml ..%2f..%2fetc/passwd /etc/passwd; do
  status=$(curl -sS --path-as-is -o /dev/null -w '%{http_code}' "$DEMO_URL/files/$path")
  equal "/files/$path does not escape" "$status" 404
done

# A stream of plain bytes that fails cannot say so in words: it must look cut.
fail="$DEMO_URL/fail?how=error-body&format=bytes&after=3"
curl -sS --http1.1 -o /dev/null "$fail" 2>/dev/null
equal "http1.1: a failed transfer is curl's exit code 18 (partial file)" $? 18
curl -sS --http2-prior-knowledge -o /dev/null "$fail" 2>/dev/null
equal "http2: a failed transfer is curl's exit code 92 (stream error)" $? 92
curl -sS --http1.1 -o /dev/null "$fail&length=1" 2>/dev/null
equal "http1.1: short of its length is curl's exit code 18" $? 18
curl -sS -m 10 -o /dev/null "$DEMO_URL/fail?how=hang&format=bytes" 2>/dev/null
equal "a hung stream is cut by the idle timeout, before curl's own" $? 18

chat='{"model": "demo", "stream": true, "max_tokens": 12, "messages": [{"role": "user", "content": "Tell me a story"}]}'
curl -sSN -H 'Content-Type: application/json' -d "$chat" "$DEMO_URL/v1/chat/completions?interval_ms=50" |
  stamped >"$SCRATCH/chat"
equal "curl reads a chat to its end" "${PIPESTATUS[0]}" 0
equal "a chat ends with [DONE]" "$(grep 'data: ' "$SCRATCH/chat" | tail -n 1 | cut -d' ' -f2-)" 'data: [DONE]'
check "its first token came before the last was made" test "$(spread 'data: \{' "$SCRATCH/chat")" -ge 225
