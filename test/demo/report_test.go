// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness/redisload"
)

func good(title string) Move {
	return Move{
		Title: title, Phase: "Succeeded", SameProcess: true,
		Rounds: []Dump{{Memory: 256 << 20, Duration: 9 * time.Second, Frozen: 300 * time.Millisecond, Dirty: 12 << 20}},
		Final:  &Dump{Memory: 10 << 20, Frozen: time.Second},
		Downtime: Downtime{
			FreezeAndDump: time.Second, Handover: 100 * time.Millisecond,
			Restore: 1900 * time.Millisecond, Total: 3 * time.Second,
		},
		After: redisload.Report{Keys: 10},
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
		"a failed transfer": func(m *Move) { m.Phase = "Failed" },
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
	stop := good("stop")
	stop.Rounds = nil
	stop.Final = &Dump{Memory: 256 << 20, Frozen: 4 * time.Second}
	stop.Downtime.Total = 10 * time.Second
	if p := newComparison(good("live"), stop).Problems(); len(p) != 0 {
		t.Fatalf("problems %q", p)
	}
	for name, spoil := range map[string]func(live, stop *Move){
		"memory":        func(live, _ *Move) { live.Final.Memory = 26 << 20 },
		"frozen":        func(live, _ *Move) { live.Final.Frozen = 2 * time.Second },
		"downtime":      func(live, _ *Move) { live.Downtime.Total = 8 * time.Second },
		"not measured":  func(_, stop *Move) { stop.Downtime.Total = 0 },
		"no downtime":   func(live, _ *Move) { live.Downtime.Total = 0 },
		"no first dump": func(live, _ *Move) { live.Rounds = nil },
	} {
		live, stop := good("live"), stop
		final := *stop.Final
		stop.Final = &final
		spoil(&live, &stop)
		if p := newComparison(live, stop).Problems(); len(p) != 1 {
			t.Errorf("%s: problems %q", name, p)
		}
	}
}

func TestMoveSumsContainers(t *testing.T) {
	dump := v1alpha1.DumpStatus{MemoryBytes: 100, Frozen: metav1.Duration{Duration: time.Second}}
	mig := &v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		Phase: v1alpha1.PhaseSucceeded,
		Source: &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{Containers: []v1alpha1.SourceContainerStatus{
			{Name: "a", Rounds: []v1alpha1.RoundStatus{{DumpStatus: dump, DirtyBytes: 7}}, FinalDump: &dump},
			{Name: "b", Rounds: []v1alpha1.RoundStatus{{DumpStatus: dump}, {DumpStatus: dump}}, FinalDump: &dump},
		}}},
		Downtime: &v1alpha1.DowntimeStatus{Total: metav1.Duration{Duration: time.Minute}},
	}}
	var m Move
	m.fill(mig)
	if len(m.Rounds) != 2 || m.Rounds[0].Memory != 200 || m.Rounds[0].Dirty != 7 || m.Rounds[1].Memory != 100 ||
		m.Final.Memory != 200 || m.Final.Frozen != time.Second || m.Downtime.Total != time.Minute {
		t.Errorf("%+v, final %+v", m, m.Final)
	}
	var empty Move
	empty.fill(&v1alpha1.Migration{})
	if empty.Final != nil || empty.Rounds != nil {
		t.Errorf("%+v", empty)
	}
}

func TestPrintSaysHowItWent(t *testing.T) {
	var out bytes.Buffer
	r := Report{Moves: []Move{good("Live migration")}}
	r.conclude()
	r.print(&out)
	for _, want := range []string{"0 lost keys", "round 0", "final dump", "3.00 s = 1.00 s freeze and dump"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	r.Moves[0].After.Lost = 2
	r.Problems = nil
	r.conclude()
	out.Reset()
	r.print(&out)
	if !strings.Contains(out.String(), "FAILED") || strings.Contains(out.String(), "0 lost keys:") {
		t.Errorf("a failure reads\n%s", &out)
	}
}

func TestBarsAreAsWideAsAsked(t *testing.T) {
	for _, part := range []float64{-1, 0, 0.001, 0.5, 0.99, 1, 2} {
		if n := utf8.RuneCountInString(bar(part, 10)); n != 10 {
			t.Errorf("bar(%v) has %d cells", part, n)
		}
	}
	if strings.TrimSpace(bar(0.0001, 10)) == "" {
		t.Error("a little is shown as nothing")
	}
}
