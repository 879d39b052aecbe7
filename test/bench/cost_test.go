// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is so many seconds after the start.
func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func TestTheLoadsLogIsRead(t *testing.T) {
	line := func(seconds float64, text string) string {
		return at(seconds).Format(time.RFC3339Nano) + " " + text + "\n"
	}
	log := line(0, "begin") + line(0.4, `"test","rps","avg_latency_ms"`) + line(0.5, `"SET","4132.23","0.912"`) +
		line(0.5, "begin") + line(0.6, "Could not connect to Redis at 10.0.0.1:6379: Connection refused") +
		line(0.8, "begin") + line(1.1, `"SET","4000.00","0.9"`) +
		line(1.2, `"SET","1.00","0.9"`) + // nothing has begun
		line(1.3, "begin") + line(1.4, `"SET","nan`) +
		"unable to retrieve container logs\n"
	got := parseLoad(log)
	if len(got) != 2 || got[0] != (sample{window{at(0), at(0.5)}, 4132.23}) || got[1] != (sample{window{at(0.8), at(1.1)}, 4000}) {
		t.Errorf("%+v", got)
	}
}

// moved is a migration with rounds from 20 to 24 and from 26 to 27 seconds, frozen at 30
// and restored at 33.
var moved = course{rounds: []window{{at(20), at(24)}, {at(26), at(27)}}, frozen: at(30), restored: at(33)}

func TestSamplesBelongToParts(t *testing.T) {
	for _, k := range []struct {
		from, to float64
		want     when
	}{
		{18, 20, beforeRounds},
		{19.5, 20.5, inRound},
		{19.5, 20.02, elsewhere}, // begun before, and hardly in a round
		{21, 22, inRound},
		{23.95, 24.95, betweenRounds},
		{23.9, 24.9, inRound},
		{24.5, 25.5, betweenRounds},
		{23.5, 26.5, inRound},
		{27.5, 30, betweenRounds},
		{29.5, 30.5, elsewhere},
		{31, 34, elsewhere},
		{33, 34, afterRestore},
	} {
		if got := moved.when(window{at(k.from), at(k.to)}); got != k.want {
			t.Errorf("%v to %v: %d, want %d", k.from, k.to, got, k.want)
		}
	}
}

func TestThroughputOfTheParts(t *testing.T) {
	every := func(from, to, rate float64) []sample {
		var all []sample
		for s := from; s+0.5 <= to; s += 0.5 {
			all = append(all, sample{window{at(s), at(s + 0.5)}, rate})
		}
		return all
	}
	all := every(0, 4, 100) // warms up
	all = append(all, every(warmUp.Seconds(), 20, 4000)...)
	all = append(all, every(20, 24, 2000)...)
	all = append(all, every(24, 26, 3800)...)
	all = append(all, every(34, 36, 5000)...)
	var k cost
	if err := k.sort(all, moved); err != nil {
		t.Fatal(err)
	}
	if !near(k.Before.PerSecond, 4000) || k.InRound != (throughput{2000, 8}) || !near(k.Between.PerSecond, 3800) || k.Between.Samples != 4 ||
		!near(k.PreCopy.PerSecond, 12/(8.0/2000+4.0/3800)) || !near(k.After.PerSecond, 5000) {
		t.Errorf("%+v", k)
	}
	if err := new(cost).sort(every(0, 12, 100), moved); err == nil || !strings.Contains(err.Error(), "0 times during pre-copy") {
		t.Errorf("without a migration: %v", err)
	}
	if err := new(cost).sort(nil, moved); err == nil {
		t.Error("nothing was measured, and that is no error")
	}
}

func TestTheCourseIsInTheStatus(t *testing.T) {
	stamp := func(seconds float64) metav1.MicroTime { return metav1.NewMicroTime(at(seconds)) }
	frozen, restored := stamp(5), stamp(8)
	m := &v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		Source: &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{FrozenAt: &frozen, Containers: []v1alpha1.SourceContainerStatus{{
			Rounds: []v1alpha1.RoundStatus{{DumpStatus: v1alpha1.DumpStatus{StartTime: stamp(1), Duration: metav1.Duration{Duration: 3 * time.Second}}}},
		}}}},
		Target: &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{RestoredAt: &restored}},
	}}
	c, err := courseOf(m)
	if err != nil || len(c.rounds) != 1 || c.rounds[0] != (window{at(1), at(4)}) || c.frozen != at(5) || c.restored != at(8) {
		t.Errorf("%+v, %v", c, err)
	}
	m.Status.Target = nil
	if _, err := courseOf(m); err == nil {
		t.Error("a migration without a restore has a course")
	}
}

func TestWritesAreCounted(t *testing.T) {
	const metrics = `# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="godwit.dev",resource="migrations",scope="resource",subresource="status",verb="PATCH",version="v1alpha1"} 12
apiserver_request_total{code="409",component="apiserver",dry_run="",group="godwit.dev",resource="migrations",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 2
apiserver_request_total{code="201",group="",resource="pods",subresource="",verb="POST"} 1
apiserver_request_total{code="200",group="",resource="pods",subresource="status",verb="PATCH"} 4
apiserver_request_total{code="200",group="",resource="pods",subresource="",verb="LIST"} 70
apiserver_request_total{code="201",group="events.k8s.io",resource="events",subresource="",verb="POST"} 1e+01
apiserver_request_total{code="200",group="",resource="nodes",subresource="status",verb="PATCH"} 3
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT"} 500
apiserver_request_total_of_another{resource="pods",verb="POST"} 5
`
	got, err := parseWrites(metrics)
	want := map[string]int{"migrations/status": 14, "pods": 1, "pods/status": 4, "events": 10, "nodes/status": 3}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	more := moreThan(map[string]int{"migrations/status": 4, "events": 10}, got)
	kinds := (&cost{Writes: more}).writesByKind()
	if !maps.Equal(kinds, map[string]int{"their status": 10, "pods": 5, "others": 3}) {
		t.Errorf("%v of %v", kinds, more)
	}
	for _, bad := range []string{"", "apiserver_request_total{verb=\"POST\" 1\n", "apiserver_request_total{verb=\"POST\"} many\n"} {
		if _, err := parseWrites(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestMetersAreRead(t *testing.T) {
	whole, without, broken := t.TempDir(), t.TempDir(), t.TempDir()
	for file, text := range map[string]string{
		whole + "/cpu.stat": "usage_usec 1500000\nuser_usec 1\n", whole + "/memory.stat": "anon 4096\nfile 8192\n",
		without + "/cpu.stat": "usage_usec 7\n",
		broken + "/cpu.stat":  "nr_periods 3\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look := func(dir string) string { return " && look " + filepath.Base(dir) + " " + dir }
	out, err := exec.Command("bash", "-c", lookScript+"\ntrue"+look(whole)+look(without)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := parseReadings(string(out))
	want := map[string]reading{filepath.Base(whole): {1500 * time.Millisecond, 4096}, filepath.Base(without): {7 * time.Microsecond, 0}}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for dir, says := range map[string]string{broken: "nr_periods", t.TempDir(): "No such file"} {
		out, err := exec.Command("bash", "-c", lookScript+"\ntrue"+look(dir)+look(whole)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) {
			t.Errorf("%v: %s, want %q", err, out, says)
		}
	}
	if _, err := parseReadings("bash: no\n"); err == nil {
		t.Error("a complaint is a reading")
	}
}

func TestWhatAMigrationUses(t *testing.T) {
	idle := spent{took: 20 * time.Second, cpu: map[string]time.Duration{"manager": time.Second}, peak: map[string]int64{"manager": 10}}
	used := spent{took: 30 * time.Second, cpu: map[string]time.Duration{"manager": 4 * time.Second}, peak: map[string]int64{"manager": 30}}
	if got := usages(idle, used); len(got) != 1 || got["manager"] != (usage{CPUSeconds: 4, IdleCPU: 0.05, PeakBytes: 30, IdleBytes: 10}) {
		t.Errorf("%+v", got)
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if err := wait(ctx, time.Hour); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	if err := wait(context.Background(), 0); err != nil {
		t.Errorf("%v", err)
	}
}

func TestTheLoadIsShell(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "-c", fmt.Sprintf(loadScript, "10.0.0.1", redisPort)).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// costs of five repetitions, with so much of the throughput between the rounds.
func costs(between float64) results {
	var rs results
	for rep := 1; rep <= 5; rep++ {
		rate := 4000 + 100*float64(rep)
		rs = append(rs, result{
			Run: "r", Method: costMethod, cell: big, Rep: rep, ResidentBytes: 100, BytesWritten: 150, Memory: memoryKept,
			Rounds: []dump{{FrozenSeconds: 0.2}, {FrozenSeconds: 0.1}},
			Cost: &cost{
				Before: throughput{rate, 20}, InRound: throughput{rate / 2, 10}, Between: throughput{rate * between, 10},
				PreCopy: throughput{rate * 0.7, 20}, After: throughput{rate, 20},
				Used:   map[string]usage{"manager": {CPUSeconds: 0.4, IdleCPU: 0.01, PeakBytes: 30 << 20, IdleBytes: 28 << 20}},
				Writes: map[string]int{"migrations": 2, "migrations/status": 14, "pods": 2, "pods/status": 3, "pods/binding": 1, "events": 9, "nodes/status": 1},
			},
		})
	}
	return rs
}

func TestThePageSaysWhatAMigrationCosts(t *testing.T) {
	all := pages(append(synthetic(), costs(0.95)...))
	for _, want := range []string{
		"| throughput of Redis between rounds, of that before, at least 0.9 | 0.95 (0.95–0.95; 0.95–0.95) of 5 | holds |",
		"| the status shows for how long each round froze the pod | of 30 rounds out of 30 | holds |",
		"## What a migration costs",
		"| 1024 MiB | 4300 | 0.50 | 0.95 | 0.70 | 1.00 | 2 | 0.15 s | 1.50 |",
		"| manager | 0.40 s | 1.0 % | 30 MiB | 28 MiB |",
		"| agent of the source | – | – | – | – |",
		"| 1024 MiB | 2 | 14 | 6 | 9 | 1 | 32 |",
	} {
		if !strings.Contains(all[pageFile], want) {
			t.Errorf("the page lacks\n%s", want)
		}
	}
	if t.Failed() {
		t.Log(all[pageFile])
	}
	// Its downtime is not compared with anybody's.
	if strings.Contains(all[chartFile], costMethod) || strings.Contains(all[pageFile], "| `cost` | 5 |") {
		t.Error("the cost is among the downtimes")
	}
}

func TestSlowerThanAllowedIsSaid(t *testing.T) {
	if c := undisturbed(costs(0.8)); c.outcome != fails {
		t.Errorf("%+v", c)
	}
	if c := undisturbed(synthetic()); c.outcome != notMeasured {
		t.Errorf("%+v", c)
	}
	rs := costs(0.95)
	rs[0].Rounds[1].FrozenSeconds = 0
	if c := roundsShown(rs); c.outcome != fails || c.measured != "of 9 rounds out of 10" {
		t.Errorf("%+v", c)
	}
}
