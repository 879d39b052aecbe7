// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kv is the store over HTTP that the workloads of "make compat" serve, those in
// other languages too:
//
//	PUT /kv/NAME   keeps the body; the answer is the acknowledgement
//	GET /kv/NAME   is that body, or 404
//	GET /kv/       is a JSON array with an element for each name
//	GET /self      is a [Self]
package kv

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
)

// Self is what a program says of itself.
type Self struct {
	// Identity is made when the process starts, and kept nowhere but in its memory.
	Identity string `json:"identity"`
	// Progress only grows, and only while the program does its work.
	Progress uint64 `json:"progress"`
	// Problems that the program has found in itself.
	Problems []string `json:"problems"`
}

// Watch tells how a program does beside the store.
type Watch interface {
	// State is the progress and the problems so far.
	State() (progress uint64, problems []string)
}

// New returns the handler of a store in memory.
func New(w Watch) http.Handler {
	s := &store{values: map[string][]byte{}, identity: fmt.Sprintf("%d-%s", os.Getpid(), rand.Text()), watch: w}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /kv/{name}", s.put)
	mux.HandleFunc("GET /kv/{name}", s.get)
	mux.HandleFunc("GET /kv/{$}", s.list)
	mux.HandleFunc("GET /self", s.self)
	return mux
}

type store struct {
	identity string
	watch    Watch

	mu     sync.Mutex
	values map[string][]byte
}

func (s *store) put(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.values[r.PathValue("name")] = body
	s.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	value, ok := s.values[r.PathValue("name")]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(value)
}

func (s *store) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	names := slices.Collect(maps.Keys(s.values))
	s.mu.Unlock()
	answer(w, names)
}

func (s *store) self(w http.ResponseWriter, _ *http.Request) {
	progress, problems := s.watch.State()
	answer(w, Self{Identity: s.identity, Progress: progress, Problems: problems})
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b)
}
