package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

type requestIDKey struct{}

// withRequestID takes the id of the request or makes one, shows it to the handler and sends it back.
func withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = newID()
			r.Header.Set("X-Request-Id", id)
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

// span is one request, from its head to the end of its body. Nobody listens, as in the axum servers.
type span struct {
	id, method, path string
	start            time.Time
	duration         time.Duration
	status           int
	chunks, bytes    int64
	outcome          string
	sampled          bool
}

var export func(*span)

type spanKey struct{}

func withSpan(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := r.Context().Value(requestIDKey{}).(string)
		s := &span{id: id, method: r.Method, path: r.URL.Path, start: time.Now(), status: http.StatusOK, outcome: "dropped"}
		defer func() {
			s.duration = time.Since(s.start)
			if export != nil {
				export(s)
			}
		}()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), spanKey{}, s)))
		if s.outcome == "dropped" && r.Context().Err() == nil {
			s.outcome = "complete"
		}
	})
}

var (
	inFlight atomic.Int64
	draining atomic.Bool
)

// withDrain counts a request until its body is over, and closes connections once a drain has begun.
func withDrain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// withErrorRecord ends a stream whose handler panicked with an event that its client can read.
func withErrorRecord(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if s, ok := r.Context().Value(spanKey{}).(*span); ok {
				s.outcome = "panicked"
			}
			fmt.Fprintf(w, "event: error\ndata: {\"error\":{\"kind\":\"panic\",\"status\":500}}\n\n")
		}()
		next.ServeHTTP(w, r)
	})
}

// chunks watches what the handler writes.
type chunks struct {
	http.ResponseWriter
	flusher http.Flusher
	span    *span
	last    time.Time
	gap     time.Duration
}

func (c *chunks) WriteHeader(status int) {
	c.span.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *chunks) Write(data []byte) (int, error) {
	if c.span.sampled {
		now := time.Now()
		c.gap = now.Sub(c.last)
		c.last = now
	}
	n, err := c.ResponseWriter.Write(data)
	c.span.chunks++
	c.span.bytes += int64(n)
	return n, err
}

func (c *chunks) Flush() { c.flusher.Flush() }

func withChunks(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := r.Context().Value(spanKey{}).(*span)
		flusher, flushes := w.(http.Flusher)
		if !ok || !flushes {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(&chunks{ResponseWriter: w, flusher: flusher, span: s, last: s.start}, r)
	})
}
