// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness/redisload"
)

func seconds(s float64) metav1.Duration {
	return metav1.Duration{Duration: time.Duration(s * float64(time.Second))}
}

func good(title string) Move {
	return Move{
		Title: title, SameProcess: true, After: redisload.Report{Keys: 10},
		Migration: progress.Summary{
			Phase:  v1alpha1.PhaseSucceeded,
			Rounds: []progress.Round{{Dump: progress.Dump{MemoryBytes: 256 << 20, Duration: seconds(9), Frozen: seconds(0.3)}, DirtyBytes: 12 << 20}},
			Final:  &progress.Dump{MemoryBytes: 10 << 20, Frozen: seconds(1)},
			Downtime: &v1alpha1.DowntimeStatus{
				FreezeAndDump: seconds(1), Handover: seconds(0.1), Restore: seconds(1.9), Total: seconds(3),
			},
		},
	}
}

func TestAReportIsGoodOnlyIfNothingIsWrong(t *testing.T) {
	r := Report{Moves: []Move{good("move")}}
	if r.conclude(); !r.OK {
		t.Fatalf("problems %q", r.Problems)
	}
	for name, spoil := range map[string]func(*Move){
		"a lost key":        func(m *Move) { m.After.Lost = 1 },
		"a surplus key":     func(m *Move) { m.After.Surplus = 1 },
		"nothing checked":   func(m *Move) { m.After.Keys = 0 },
		"a wrong read":      func(m *Move) { m.Client.Wrong = []string{"key:1"} },
		"a restart":         func(m *Move) { m.Restarts = 1 },
		"another process":   func(m *Move) { m.SameProcess = false },
		"a failed transfer": func(m *Move) { m.Migration.Phase = v1alpha1.PhaseFailed },
	} {
		m := good("move")
		spoil(&m)
		r := Report{Moves: []Move{m}}
		if r.conclude(); r.OK || len(r.Problems) != 1 {
			t.Errorf("%s: problems %q", name, r.Problems)
		}
	}
	if r := (Report{}); func() bool { r.conclude(); return r.OK }() {
		t.Error("a report without a move is good")
	}
}

func TestComparisonLimits(t *testing.T) {
	stopped := func() Move {
		stop := good("stop")
		stop.Migration.Rounds = nil
		stop.Migration.Final.MemoryBytes = 256 << 20
		stop.Migration.Final.Frozen = seconds(4)
		stop.Migration.Downtime.Total = seconds(10)
		return stop
	}
	if p := newComparison(good("live"), stopped()).Problems(); len(p) != 0 {
		t.Fatalf("problems %q", p)
	}
	for name, spoil := range map[string]func(live, stop *Move){
		"memory":        func(live, _ *Move) { live.Migration.Final.MemoryBytes = 26 << 20 },
		"frozen":        func(live, _ *Move) { live.Migration.Final.Frozen = seconds(2) },
		"downtime":      func(live, _ *Move) { live.Migration.Downtime.Total = seconds(8) },
		"not measured":  func(_, stop *Move) { stop.Migration.Downtime = nil },
		"no downtime":   func(live, _ *Move) { live.Migration.Downtime = nil },
		"no first dump": func(live, _ *Move) { live.Migration.Rounds = nil },
	} {
		live, stop := good("live"), stopped()
		spoil(&live, &stop)
		if p := newComparison(live, stop).Problems(); len(p) != 1 {
			t.Errorf("%s: problems %q", name, p)
		}
	}
}

func TestPrintSaysHowItWent(t *testing.T) {
	printed := func(r Report) string {
		var out bytes.Buffer
		r.conclude()
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	r := Report{Moves: []Move{good("Live migration")}}
	out := printed(r)
	for _, want := range []string{"0 lost keys", "DIRTY LEFT", "final", "hand-over", "As the client saw it:", "Pod restarts:", "unchanged"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	r.Moves[0].After.Lost = 2
	if out := printed(r); !strings.Contains(out, "FAILED") || strings.Contains(out, "0 lost keys:") {
		t.Errorf("a failure reads\n%s", out)
	}
}
