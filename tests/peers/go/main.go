// The Go peer of tests/peers/run: the events of the axum servers, and a middleware by hand for each of the five jobs.
//
// With -bare the handler stands alone.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func main() {
	bare := flag.Bool("bare", false, "no middleware")
	flag.BoolVar(&zips, "gzip", false, "compress for clients that accept gzip")
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

var zips bool

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
	padding := size - len("data: \n\n")
	if padding < 0 {
		padding = 0
	}
	event := []byte("data: " + string(bytes.Repeat([]byte{'x'}, padding)) + "\n\n")
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := w.(http.Flusher)
	chat := query.Get("chat") == "true"
	var out io.Writer = w
	flush := flusher.Flush
	if zips && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		zipper := gzip.NewWriter(w)
		out = zipper
		flush = func() {
			zipper.Flush()
			flusher.Flush()
		}
		defer zipper.Close()
	}

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
		if chat {
			event = chunk(count - 1 - i)
		}
		if _, err := out.Write(event); err != nil {
			return
		}
		flush()
	}
}

// chunk is one token of a chat completion, and the time at which it was made, as the axum servers write it.
func chunk(left int) []byte {
	return fmt.Appendf(nil, `data: {"id":"chatcmpl-9zK3pQ2mXv7Lr4","object":"chat.completion.chunk","created":1700000000,`+
		`"model":"demo-1","choices":[{"index":0,"delta":{"content":" %s"},"finish_reason":null}],"at":%d}`+"\n\n",
		words[left*7%len(words)], time.Now().UnixNano())
}

var words = strings.Fields(`the rabbit hole went straight on like a tunnel for some way and then dipped suddenly down so that
	Alice had not moment to think about stopping herself before she found`)

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
