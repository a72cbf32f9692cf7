# curl: digests in head and trailers equal what arrived; a broken promise is never exit code 0.
# debian: curl openssl
. "$(dirname "$0")/../lib/check.sh"
curl --version | head -n 1

# announced HEADERS: the digest in head or trailers, for curl writes both there
announced() { tr -d '\r' <"$1" | sed -n 's/^x-content-md5: //Ip'; }
md5_of() { md5sum "$1" | cut -d' ' -f1; }

for version in http1.1 http2-prior-knowledge; do
  out=$SCRATCH/$version
  fetch() { curl -sS --"$version" -H 'TE: trailers' -D "$out.head" -o "$out.body" "$@"; }

  fetch "$DEMO_URL/files/random.bin"
  equal "$version: curl reads a file to its end" $? 0
  queries=('size=100' 'size=1000000&length=0')
  if [ "$version" = http1.1 ]; then
    equal "$version: a file's digest in the trailers is md5sum's" "$(announced "$out.head")" "$(md5_of "$SERVED_FILES/random.bin")"
    fetch -r 1000-1999999 "$DEMO_URL/files/random.bin"
    equal "$version: a range's digest is that of the range" "$(announced "$out.head")" \
      "$(tail -c +1001 "$SERVED_FILES/random.bin" | head -c 1999000 | md5sum | cut -d' ' -f1)"
    queries+=('size=1000000')
  else
    # this curl stops reading an HTTP/2 stream at its Content-Length; digest_node and digest_h2 read on
    check "$version: a file keeps its length" grep -qi '^content-length: 3000000' "$out.head"
  fi
  for query in "${queries[@]}"; do
    fetch "$DEMO_URL/bytes?$query"
    equal "$version: /bytes?$query is announced" "$(announced "$out.head")" "$(md5_of "$out.body")"
  done
  fetch -H 'Want-Content-Digest: sha-256=10' "$DEMO_URL/bytes?size=100"
  equal "$version: the wanted algorithm" "$(tr -d '\r' <"$out.head" | sed -n 's/^content-digest: //Ip')" \
    "sha-256=:$(openssl dgst -sha256 -binary "$out.body" | base64):"
done

for version in http1.0 http1.1; do
  curl -sS --"$version" -D "$SCRATCH/head" -o "$SCRATCH/body" "$DEMO_URL/files/random.bin"
  equal "$version: without TE nothing is announced that would not arrive" "$(announced "$SCRATCH/head")" ''
  check "$version: and the length stays" grep -qi '^content-length: 3000000' "$SCRATCH/head"
done

promise() { curl -sS -f --"$1" -o /dev/null "$DEMO_URL/promise?$2" 2>/dev/null; }
for version in http1.0 http1.1 http2-prior-knowledge; do
  for as in md5hex md5b64 content-digest; do
    for query in 'size=1000' 'size=1000000' 'size=1000000&length=0'; do
      promise "$version" "$query&as=$as"
      equal "$version: a kept promise is exit code 0 ($query $as)" $? 0
    done
    promise "$version" "size=1000&corrupt=1&as=$as"
    equal "$version: broken and short: 502, curl -f says 22 ($as)" $? 22
  done
done
promise http1.0 'size=1000000&corrupt=1'
equal "http1.0: broken, with a length: 18 (partial file)" $? 18
promise http1.1 'size=1000000&corrupt=1'
equal "http1.1: broken, with a length: 18 (partial file)" $? 18
promise http1.1 'size=1000000&corrupt=1&length=0'
equal "http1.1: broken, chunked: 18 (no last chunk)" $? 18
for length in 0 1; do
  promise http2-prior-knowledge "size=1000000&corrupt=1&length=$length"
  equal "http2: broken, length=$length: 92 (stream error)" $? 92
done

upload() { curl -sS -o "$SCRATCH/answer" -w '%{http_code}' "$@" "$DEMO_URL/upload"; }
random=(-T "$SERVED_FILES/random.bin")
md5=$(md5_of "$SERVED_FILES/random.bin")
for version in http1.1 http2-prior-knowledge; do
  equal "$version: an upload as promised" "$(upload --"$version" "${random[@]}" -H "X-Content-MD5: $md5")" 200
  equal "$version: its size and digest" "$(cat "$SCRATCH/answer")" "{\"md5\":\"$md5\",\"size\":3000000}"
  equal "$version: an upload that is not as promised" "$(upload --"$version" "${random[@]}" -H "X-Content-MD5: ${md5//[0-9]/0}")" 400
  check "$version: is a BadDigest" grep -q '"BadDigest"' "$SCRATCH/answer"
  # small, for over HTTP/2 this curl takes an answer before the end of its upload for an error, whoever gives it
  equal "$version: a promise that is none" \
    "$(upload --"$version" -T "$SERVED_FILES/small.txt" -H 'Content-MD5: nonsense')" 400
done
