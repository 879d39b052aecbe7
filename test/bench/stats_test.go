// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"google.golang.org/protobuf/proto"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestSpread(t *testing.T) {
	for _, k := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{1, 3, 3, 3, 3, 3}},
		{[]float64{4, 1}, spread{2, 2.5, 1.75, 3.25, 1, 4}},
		{[]float64{5, 1, 4, 2, 3}, spread{5, 3, 2, 4, 1, 5}},
		{[]float64{10, 1, 2, 4}, spread{4, 3, 1.75, 5.5, 1, 10}},
	} {
		before := slices.Clone(k.values)
		got := spreadOf(k.values)
		if got.N != k.want.N || !near(got.Median, k.want.Median) || !near(got.Q1, k.want.Q1) || !near(got.Q3, k.want.Q3) ||
			got.Min != k.want.Min || got.Max != k.want.Max {
			t.Errorf("%v: %+v, want %+v", k.values, got, k.want)
		}
		if !slices.Equal(before, k.values) {
			t.Errorf("the values were sorted: %v", k.values)
		}
	}
}

func TestRatiosAreOfTheSameRepetition(t *testing.T) {
	c := cell{SizeMiB: 64, RatePercent: 1, Pattern: "uniform"}
	one := func(run, method string, rep int, gap float64) result {
		return result{Run: run, Method: method, cell: c, Rep: rep, ProcessGapSeconds: gap}
	}
	rs := results{
		one("a", precopy, 0, 100), one("a", stopAndCopy, 0, 1), // warming up
		one("a", precopy, 1, 2), one("a", stopAndCopy, 1, 4),
		one("a", precopy, 2, 3), // its counterpart failed
		one("a", stopAndCopy, 2, 1),
		one("b", precopy, 1, 8), one("b", stopAndCopy, 1, 10),
		one("b", precopy, 2, 0), one("b", stopAndCopy, 2, 10), // not measured
	}
	rs[5].Error = "it failed"
	if got := rs.ratios(c, precopy, processGap, stopAndCopy, processGap); !slices.Equal(got, []float64{0.5, 0.8}) {
		t.Errorf("%v", got)
	}
	if got := rs.values(c, precopy, processGap); !slices.Equal(got, []float64{2, 3, 8}) {
		t.Errorf("%v", got)
	}
}

func TestDowntimeIsWhatAMethodIsJudgedBy(t *testing.T) {
	r := result{ProcessGapSeconds: 1, ClientGapSeconds: 2, CRIU: &criuTimes{FreezingSeconds: 0.1, FrozenSeconds: 0.2, RestoreSeconds: 0.3}}
	for method, want := range map[string]float64{precopy: 1, stopAndCopy: 1, runcScript: 1, phaulMethod: 1, reschedule: 2, floor: 0.6} {
		r.Method = method
		if got := downtime(&r); !near(got, want) {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
}

func TestConvergence(t *testing.T) {
	c := cell{SizeMiB: 64, RatePercent: 10, Pattern: "uniform"}
	with := func(shares ...float64) results {
		var rs results
		for i, s := range shares {
			rs = append(rs, result{Method: precopy, cell: c, Rep: i + 1, Final: &dump{MemoryBytes: int64(s * 64 * (1 << 20))}})
		}
		return rs
	}
	for want, rs := range map[bool]results{true: with(0, 0.25, 0.9), false: with(0.2, 0.3, 0.4)} {
		if got := rs.converges(c); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if with().converges(c) {
		t.Error("what was not measured converges")
	}
}

// statsFile is what CRIU writes.
func statsFile(t *testing.T, s *stats.StatsEntry) []byte {
	t.Helper()
	payload, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, n := range []uint32{serviceMagic, statsMagic, uint32(len(payload))} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, payload...)
}

func TestCRIUsStatistics(t *testing.T) {
	dumped := statsFile(t, &stats.StatsEntry{Dump: &stats.DumpStatsEntry{
		FreezingTime: proto.Uint32(1000), FrozenTime: proto.Uint32(250000), MemdumpTime: proto.Uint32(3), MemwriteTime: proto.Uint32(4),
		PagesScanned: proto.Uint64(9), PagesSkippedParent: proto.Uint64(2), PagesWritten: proto.Uint64(5), PagesLazy: proto.Uint64(0), ShpagesWritten: proto.Uint64(2),
	}})
	restored := statsFile(t, &stats.StatsEntry{Restore: &stats.RestoreStatsEntry{
		PagesCompared: proto.Uint64(0), PagesSkippedCow: proto.Uint64(0), ForkingTime: proto.Uint32(20000), RestoreTime: proto.Uint32(1500000), PagesRestored: proto.Uint64(7),
	}})
	text := "0/stats-dump " + base64.StdEncoding.EncodeToString(dumped) + "\n1/stats-restore " + base64.StdEncoding.EncodeToString(restored)
	all, err := parseStats(text)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	d := dumpFrom(all["0/stats-dump"], 2*time.Second)
	if d.Seconds != 2 || !near(d.FrozenSeconds, 0.251) || d.MemoryBytes != 7*4096 {
		t.Errorf("%+v", d)
	}
	times := timesFrom(all["0/stats-dump"], all["1/stats-restore"])
	if !near(times.RestoreSeconds, 1.5) || !near(times.floor(), 1.751) || times.PagesRestored != 7 || !near(times.ForkingSeconds, 0.02) {
		t.Errorf("%+v", times)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "another file": []byte("0123456789abcdef"), "cut off": dumped[:len(dumped)-1]} {
		if _, err := decodeStats(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := parseStats("base64: command not found"); err == nil {
		t.Error("a message was accepted")
	}
}

func TestClientsGap(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, int64(s*1e9)) }
	var g gapMeter
	for _, k := range []struct {
		answered bool
		at       float64
	}{{true, 1}, {true, 1.1}, {false, 2}, {false, 3}, {true, 4.1}, {true, 4.2}} {
		g.note(k.answered, at(k.at))
	}
	if g.longest.Round(time.Millisecond) != 3*time.Second || g.failures != 2 || g.inARow != 2 {
		t.Errorf("%+v", g)
	}
	g = gapMeter{last: g.last}
	g.note(true, at(4.7))
	if g.longest.Round(time.Millisecond) != 500*time.Millisecond {
		t.Errorf("after the reset: %+v", g)
	}
}

func TestResultsAreStored(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "bench.json")
	s := &store{file: file}
	c := cell{SizeMiB: 64, RatePercent: 0}
	for rep := range 3 {
		r := result{Run: "r", Method: precopy, cell: c, Rep: rep, Rounds: []dump{{Seconds: 1}}}
		if rep == 1 {
			r.Error = "it failed"
		}
		if err := s.add(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readResults(file, file)
	if err != nil || len(got) != 6 || got[2].cell != c || got[2].Rep != 2 || len(got[2].Rounds) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if s.failed(precopy) != 1 || s.failed(floor) != 0 {
		t.Errorf("%d and %d failed", s.failed(precopy), s.failed(floor))
	}
}
