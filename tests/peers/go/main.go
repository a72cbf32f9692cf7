// The Go peer of tests/peers/run: the events of the axum servers, and a middleware by hand for each of the five jobs.
//
// With -bare the handler stands alone.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"
)

func main() {
	bare := flag.Bool("bare", false, "no middleware")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()

	mux := http.NewServeMux()
	mux.HandleFunc("/events", events)
	var handler http.Handler = mux
	if !*bare {
		// the order of tower-stream's stack
		handler = withRequestID(withSpan(withDrain(withErrorRecord(withChunks(handler)))))
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}

// events sends the same event a number of times. Each is flushed, for that is what makes it one HTTP chunk, as a frame
// is in hyper; net/http would join what is written to chunks of 2 KiB otherwise.
func events(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number := func(name string) int {
		value, err := strconv.Atoi(query.Get(name))
		if err != nil && query.Has(name) {
			panic(err)
		}
		return value
	}
	count, size, interval := number("count"), number("bytes"), number("interval_ms")
	event := []byte("data: " + string(bytes.Repeat([]byte{'x'}, size-len("data: \n\n"))) + "\n\n")
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := w.(http.Flusher)

	var tick <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(time.Duration(interval) * time.Millisecond)
		defer ticker.Stop()
		tick = ticker.C
	}
	for i := 0; i < count; i++ {
		if i > 0 && tick != nil {
			select {
			case <-tick:
			case <-r.Context().Done():
				return
			}
		}
		if _, err := w.Write(event); err != nil {
			return
		}
		flusher.Flush()
	}
}

// newID makes a random UUID (version 4), which is what the axum servers make.
func newID() string {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err)
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	text[8] = '-'
	hex.Encode(text[9:13], id[4:6])
	text[13] = '-'
	hex.Encode(text[14:18], id[6:8])
	text[18] = '-'
	hex.Encode(text[19:23], id[8:10])
	text[23] = '-'
	hex.Encode(text[24:], id[10:])
	return string(text[:])
}
