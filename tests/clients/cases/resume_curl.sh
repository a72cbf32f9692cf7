# curl: the rest of a stream by its cursor, by the number of records, at its end; status, cancelling.
# debian: curl
. "$(dirname "$0")/../lib/check.sh"
curl --version | head -n 1
story="$DEMO_URL/story?words=12&interval_ms=10"

curl -sSN -D "$SCRATCH/head" "$story" >"$SCRATCH/whole"
equal 'curl reads a story to its end' $? 0
id=$(sed -n 's/^stream-id: *//ip' "$SCRATCH/head" | tr -d '\r')
cursors=$(sed -n 's/^id: //p' "$SCRATCH/whole")
fifth=$(sed -n 6p <<<"$cursors")

curl -sSN -H "Last-Event-ID: $fifth" "$story" >"$SCRATCH/rest"
check 'the rest after the fifth event is that of the whole story, byte for byte' \
  cmp -s "$SCRATCH/rest" <(tail -c "$(wc -c <"$SCRATCH/rest")" "$SCRATCH/whole")
equal 'it has seven events' "$(grep -c '^data: ' "$SCRATCH/rest")" 7
curl -sSN "$DEMO_URL/streams/$id?after=5" >"$SCRATCH/counted"
check 'the same by the number of records' cmp -s "$SCRATCH/rest" "$SCRATCH/counted"

answer() { curl -sS -o "$SCRATCH/answer" -w '%{http_code}' "$@"; }
equal 'at the end there is nothing more' "$(answer -H "Last-Event-ID: $(tail -n 1 <<<"$cursors")" "$story")" 204
equal 'a malformed cursor is refused' "$(answer -H 'Last-Event-ID: 7' "$story")" 400
[[ $fifth == A* ]] && other=B || other=A
equal 'a guess is unknown' "$(answer -H "Last-Event-ID: $other${fifth:1}" "$story")" 404
equal 'the state of the stream' "$(answer "$DEMO_URL/streams/$id/status")" 200
check 'it is complete' grep -q '"state":"complete"' "$SCRATCH/answer"

curl -sSN -D "$SCRATCH/head" "$DEMO_URL/story?words=1000&interval_ms=50" >"$SCRATCH/cancelled" &
until [ -s "$SCRATCH/cancelled" ]; do sleep 0.05; done
id=$(sed -n 's/^stream-id: *//ip' "$SCRATCH/head" | tr -d '\r')
equal 'a page of another origin cannot cancel' "$(answer -X DELETE -H 'Origin: http://evil.example' "$DEMO_URL/streams/$id")" 403
equal 'the stream is cancelled' "$(answer -X DELETE "$DEMO_URL/streams/$id")" 204
wait $!
check 'and its reader is told' grep -q '"cancelled"' "$SCRATCH/cancelled"
