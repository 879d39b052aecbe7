// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func newTestServer(t *testing.T) (*server, *bytes.Buffer, *[]int) {
	t.Helper()
	m := newTestMemory(t, 16)
	var out bytes.Buffer
	var codes []int
	return &server{
		memory: m, writer: newWriter(m, newPicker(16, 5, 1), none, 0, 0), gaps: newGaps(reading{}),
		bootID: "b", started: time.Unix(1, 0), pid: 1,
		stdout: &out, exit: func(c int) { codes = append(codes, c) },
	}, &out, &codes
}

func do(t *testing.T, s *server, method, target string, into any) int {
	t.Helper()
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequest(method, target, nil))
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, target, err, w.Body)
		}
	}
	return w.Code
}

func TestStatusTellsWhoItIs(t *testing.T) {
	s, _, _ := newTestServer(t)
	s.gaps.tick(reading{monotonic: 42})
	var got map[string]any
	if code := do(t, s, "GET", "/status", &got); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	for field, want := range map[string]any{
		"bootID": "b", "pid": 1.0, "counter": 16.0, "pages": 16.0,
		"ticks": 1.0, "longestGapNanoseconds": 42.0, "pattern": "none",
	} {
		if got[field] != want {
			t.Errorf("%s = %v, want %v", field, got[field], want)
		}
	}
}

func TestVerifyFailsTheRequestOnDamage(t *testing.T) {
	s, _, _ := newTestServer(t)
	if code := do(t, s, "GET", "/verify", &report{}); code != http.StatusOK {
		t.Fatalf("intact memory: status %d", code)
	}
	s.memory.page(2)[0] ^= 1
	var r report
	if code := do(t, s, "GET", "/verify", &r); code != http.StatusInternalServerError || r.Corrupt != 1 {
		t.Fatalf("damaged memory: status %d, %+v", code, r)
	}
}

func TestLoadCanBeChanged(t *testing.T) {
	s, _, _ := newTestServer(t)
	if code := do(t, s, "POST", "/dirty?mibPerSecond=8&pattern=hot", nil); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if p, rate := s.writer.load(); p != hot || rate != 8*mebibyte {
		t.Errorf("load = %s at %v", p, rate)
	}
	for _, bad := range []string{"/dirty?mibPerSecond=-1", "/dirty?pattern=x", "/dirty?mibPerSecond=NaN"} {
		if code := do(t, s, "POST", bad, nil); code != http.StatusBadRequest {
			t.Errorf("%s: status %d", bad, code)
		}
	}
	if p, rate := s.writer.load(); p != hot || rate != 8*mebibyte {
		t.Errorf("a bad request changed the load to %s at %v", p, rate)
	}
}

func TestItPrintsOnlyWhatIsAskedFor(t *testing.T) {
	s, out, codes := newTestServer(t)
	do(t, s, "GET", "/status", nil)
	do(t, s, "GET", "/verify", nil)
	do(t, s, "POST", "/gap/reset", nil)
	if out.Len() != 0 {
		t.Fatalf("printed %q", out)
	}
	do(t, s, "POST", "/log?text=hello+there", nil)
	if out.String() != "hello there\n" {
		t.Errorf("printed %q", out)
	}
	do(t, s, "POST", "/exit?code=3", nil)
	if len(*codes) != 1 || (*codes)[0] != 3 {
		t.Errorf("exit codes %v", *codes)
	}
	if code := do(t, s, "POST", "/exit?code=x", nil); code != http.StatusBadRequest || len(*codes) != 1 {
		t.Errorf("a bad exit code: status %d, exits %v", code, *codes)
	}
}

func TestReadConfig(t *testing.T) {
	env := map[string]string{
		"SIZE_MIB": "2", "DIRTY_MIB_PER_SECOND": "0.5", "PATTERN": "hot", "MPTCP": "1",
	}
	c, err := readConfig(func(n string) string { return env[n] })
	if err != nil {
		t.Fatal(err)
	}
	want := config{Size: 2 * mebibyte, Rate: mebibyte / 2, Pattern: hot, HotPercent: 5, Seed: 1, Listen: ":8080", MPTCP: true, Tick: 5 * time.Millisecond}
	if c != want {
		t.Errorf("config %+v, want %+v", c, want)
	}
	for name, value := range map[string]string{"SIZE_MIB": "big", "PATTERN": "zigzag", "MPTCP": "maybe", "HOT_PERCENT": "-5"} {
		if _, err := readConfig(func(n string) string {
			if n == name {
				return value
			}
			return ""
		}); err == nil {
			t.Errorf("%s=%s was accepted", name, value)
		}
	}
}
