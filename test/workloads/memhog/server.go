// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// server answers questions about the process and takes orders.
type server struct {
	memory *memory
	writer *writer
	gaps   *gaps
	// bootID is made when the process starts, and stays what it is for as
	// long as that process runs, wherever it does.
	bootID  string
	started time.Time
	pid     int
	// stdout is where lines go that someone asked for.
	stdout io.Writer
	// exit ends the process with a status.
	exit func(int)
}

// status is the answer to GET /status.
type status struct {
	BootID    string    `json:"bootID"`
	StartTime time.Time `json:"startTime"`
	PID       int       `json:"pid"`
	// Counter only ever grows while the process lives: the page writes.
	Counter uint64 `json:"counter"`
	gapReport
	Pages             uint64  `json:"pages"`
	Pattern           pattern `json:"pattern"`
	DirtyMiBPerSecond float64 `json:"dirtyMiBPerSecond"`
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.status())
	})
	mux.HandleFunc("GET /verify", s.verify)
	mux.HandleFunc("POST /gap/reset", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.gaps.reset())
	})
	mux.HandleFunc("POST /dirty", s.dirty)
	mux.HandleFunc("POST /log", func(w http.ResponseWriter, r *http.Request) {
		if _, err := fmt.Fprintln(s.stdout, r.FormValue("text")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /exit", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			http.Error(w, "code: "+err.Error(), http.StatusBadRequest)
			return
		}
		s.exit(code)
	})
	return mux
}

func (s *server) status() status {
	p, rate := s.writer.load()
	return status{
		BootID: s.bootID, StartTime: s.started, PID: s.pid,
		Counter: s.memory.written(), gapReport: s.gaps.report(),
		Pages: s.memory.pages(), Pattern: p, DirtyMiBPerSecond: rate / mebibyte,
	}
}

// verify answers with an error status when memory is not what it has to be.
func (s *server) verify(w http.ResponseWriter, _ *http.Request) {
	r := s.memory.verify()
	code := http.StatusOK
	if !r.ok() {
		code = http.StatusInternalServerError
	}
	answer(w, code, r)
}

// dirty changes the load. What the request leaves out stays as it is.
func (s *server) dirty(w http.ResponseWriter, r *http.Request) {
	p, rate := s.writer.load()
	if v := r.FormValue("pattern"); v != "" {
		parsed, err := parsePattern(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p = parsed
	}
	if v := r.FormValue("mibPerSecond"); v != "" {
		mib, err := parseRate(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		rate = mib * mebibyte
	}
	s.writer.set(p, rate)
	answer(w, http.StatusOK, s.status())
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client has gone if this fails: nobody is left to be told.
	_ = json.NewEncoder(w).Encode(v)
}
