// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness/redisload"
	"godwit.dev/godwit/test/images/catalog"
	"godwit.dev/godwit/test/workloads/kv"
)

func moved(name string) Result {
	move := Move{
		Migration: progress.Summary{Downtime: &v1alpha1.DowntimeStatus{Total: metav1.Duration{Duration: 2500 * time.Millisecond}}},
		Gap:       3 * time.Second, Told: 3 * time.Second, Keys: 240,
	}
	return Result{Name: name, Title: name, Version: "1.2", Has: "a | b", Moves: []Move{move, move}}
}

func rendered(t *testing.T, results ...Result) string {
	t.Helper()
	var b strings.Builder
	if err := render(&b, results); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestVerdicts(t *testing.T) {
	setting := moved("go")
	setting.Setting = "`X=1`"
	refused := Result{Name: "go-mptcp", WantRefused: "R", Refused: "R", Message: "set X=1"}
	failed := moved("node")
	failed.Problems = []string{"it broke"}
	once := moved("jvm")
	once.Moves = once.Moves[:1]
	notRefused := moved("go-mptcp")
	notRefused.WantRefused = "R"
	late := Result{Name: "nginx", Refused: "FinalDumpFailed"}
	for _, c := range []struct {
		r    Result
		want string
	}{
		{moved("redis"), "works; nothing lost"},
		{setting, "works with `X=1`; nothing lost"},
		{refused, "refused by the preflight, `R`: set X=1"},
		{failed, "**failed**, see below"},
		{once, "**failed**, see below"},
		{notRefused, "**failed**, see below"},
		{late, "**failed**, see below"},
		{Result{Name: "redis"}, "not measured yet"},
	} {
		if got := verdict(c.r); got != c.want {
			t.Errorf("%s: %q, want %q", c.r.Name, got, c.want)
		}
	}
}

func TestPage(t *testing.T) {
	bad := moved("postgres")
	bad.Problems = []string{"it broke"}
	bad.Moves[1].Lost = 3
	out := rendered(t, moved("everything"), bad, moved("redis"))
	for _, want := range []string{
		`| redis | 1.2 | a \| b | works; nothing lost |`,
		"| redis | 2.50 s / 2.50 s | 3.00 s / 3.00 s | 3.00 s / 3.00 s | 240 / 240 | 0 |",
		"| 240 / 240 | 3 |", "| Node.js |  | epoll", "| not measured yet |", "### postgres failed\n\n- it broke",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// The order of the table, whatever was run first.
	if a, b, c := strings.Index(out, "| redis"), strings.Index(out, "| postgres"), strings.Index(out, "| everything"); a > b || b > c {
		t.Errorf("the order is wrong:\n%s", out)
	}
}

func TestResultsAreReplacedByName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x", "compat.json")
	again := moved("redis")
	again.Version = "1.3"
	if err := save(file, []Result{moved("redis"), moved("node")}); err != nil {
		t.Fatal(err)
	}
	later := file + ".later"
	if err := save(later, []Result{again}); err != nil {
		t.Fatal(err)
	}
	results, err := readResults(file, later)
	if err != nil || len(results) != 2 || results[0].Version != "1.3" || results[0].Moves[1].downtime() != 2500*time.Millisecond {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestTableIsSound(t *testing.T) {
	names := map[string]bool{}
	for _, p := range programs() {
		if names[p.name] || p.title == "" || p.has == "" || p.version == "" || p.port == 0 || p.connect == nil || p.dial == nil {
			t.Errorf("row %q is incomplete, or comes twice", p.name)
		}
		names[p.name] = true
		if _, ok := catalog.Find(p.image); !ok {
			t.Errorf("%s: no image %s", p.name, p.image)
		}
	}
	for _, image := range catalog.Software {
		if !slices.ContainsFunc(programs(), func(p program) bool { return p.image == image }) {
			t.Errorf("no program for image %s", image)
		}
	}
}

func TestParseStatus(t *testing.T) {
	s, err := parseStatus("Active connections: 1 \nserver accepts handled requests\n 6 7 8 \nReading: 0\n")
	if err != nil || s.Progress != 8 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseStatus("hello"); err == nil {
		t.Error("no error")
	}
}

// still does not get on.
type still struct{ n uint64 }

func (s *still) State() (uint64, []string) { return s.n, nil }

func TestClientOverHTTP(t *testing.T) {
	server := httptest.NewServer(kv.New(&still{n: 5}))
	defer server.Close()
	address := server.Listener.Addr().String()
	c, err := connectHTTP(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := redisload.NewLedger(c)
	if err := l.Fill(t.Context(), 20, 100, nil); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Verify(t.Context()); err != nil || !r.OK() || r.Keys != 20 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := c.Set(t.Context(), "key:3", []byte("other")); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "surplus", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Verify(t.Context()); err != nil || r.Lost != 1 || r.Surplus != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if s, err := c.Self(t.Context()); err != nil || s.Identity == "" || s.Progress != 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A session ends when its connection does, and says how long it waited.
func TestSessionsSeeTheEnd(t *testing.T) {
	server := httptest.NewServer(kv.New(&still{}))
	address := server.Listener.Addr().String()
	p := program{dial: dialHTTP("x")}
	open, err := openSessions(t.Context(), p, address, 2)
	if err != nil {
		t.Fatal(err)
	}
	server.CloseClientConnections()
	waited, problems := open.told(t.Context())
	if len(problems) > 0 || waited <= 0 || waited > toldLimit {
		t.Errorf("waited %s, %v", waited, problems)
	}
	server.Close()

	// One that nobody tells.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	silent := sessions{{kind: "silent", done: make(chan ended), stop: func() {}}}
	cancel(errors.New("enough"))
	if _, problems := silent.told(ctx); len(problems) == 0 {
		t.Error("a session that has not ended is no problem")
	}
}
