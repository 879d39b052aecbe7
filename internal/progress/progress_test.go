// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

const mib = 1 << 20

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func span(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }

func dump(after, took, frozen time.Duration, mem int64) v1alpha1.DumpStatus {
	return v1alpha1.DumpStatus{
		StartTime: metav1.NewMicroTime(begin.Add(after)), Duration: span(took), Frozen: span(frozen),
		PagesScanned: 66000, PagesSkipped: 66000 - mem/4096, PagesWritten: mem / 4096, MemoryBytes: mem, Bytes: mem + 64<<10,
	}
}

func round(index int32, after, took time.Duration, mem, dirty int64, predicted time.Duration) v1alpha1.RoundStatus {
	r := v1alpha1.RoundStatus{Index: index, DumpStatus: dump(after, took, 120*time.Millisecond, mem), DirtyBytes: dirty}
	if predicted > 0 {
		p := span(predicted)
		r.PredictedDowntime = &p
	}
	return r
}

// recorded is the status of one migration at the moments that matter.
func recorded() []*v1alpha1.Migration {
	m := &v1alpha1.Migration{}
	m.Namespace, m.Name = "default", "redis-0-x7k2p"
	m.CreationTimestamp = metav1.NewTime(begin)
	m.Spec.PodName = "redis-0"
	var all []*v1alpha1.Migration
	step := func(change func(s *v1alpha1.MigrationStatus)) {
		change(&m.Status)
		all = append(all, m.DeepCopy())
	}
	step(func(s *v1alpha1.MigrationStatus) { s.Phase = v1alpha1.PhasePending })
	step(func(s *v1alpha1.MigrationStatus) {
		s.Phase = v1alpha1.PhasePreparing
		s.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "redis-0", PodUID: "u1"}}
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Source.State, s.Source.ResidentBytes = v1alpha1.SourceChecked, 140*mib
		s.Source.DirtyTracking = new(bool)
		*s.Source.DirtyTracking = true
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Phase, s.Source.State = v1alpha1.PhasePreCopying, v1alpha1.SourcePreCopying
		s.Source.Containers = []v1alpha1.SourceContainerStatus{{Name: "redis", Rounds: []v1alpha1.RoundStatus{
			round(0, time.Second, 3200*time.Millisecond, 136*mib, 12*mib, 0),
		}}}
	})
	step(func(s *v1alpha1.MigrationStatus) {
		c := &s.Source.Containers[0]
		c.Rounds[0] = round(0, time.Second, 3200*time.Millisecond, 136*mib, 12*mib, 2600*time.Millisecond)
		c.Rounds = append(c.Rounds, round(1, 5*time.Second, 600*time.Millisecond, 12*mib, 8*mib, 1900*time.Millisecond))
		s.Source.State = v1alpha1.SourceConverged
		s.Source.Convergence = &v1alpha1.ConvergenceStatus{Verdict: v1alpha1.VerdictSwitch, Reason: "WithinTarget", Message: "1.9s is within 2s"}
		s.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: "redis-0-b2", PodUID: "u2"}}
		s.Target.State = v1alpha1.TargetGated
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Target.State, s.Target.VerifiedRounds = v1alpha1.TargetParked, 2
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Phase, s.Source.State = v1alpha1.PhaseSwitchingOver, v1alpha1.SourceFrozen
	})
	step(func(s *v1alpha1.MigrationStatus) {
		d := dump(8*time.Second, 700*time.Millisecond, 0, 8*mib)
		s.Source.Containers[0].FinalDump, s.Source.State = &d, v1alpha1.SourceDumped
		s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverCommitted}
		s.Target.State = v1alpha1.TargetRestoring
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Phase, s.Target.State = v1alpha1.PhaseCompleting, v1alpha1.TargetRestored
		s.Downtime = &v1alpha1.DowntimeStatus{Total: span(1940 * time.Millisecond), FreezeAndDump: span(800 * time.Millisecond),
			Handover: span(100 * time.Millisecond), Restore: span(1040 * time.Millisecond)}
	})
	step(func(s *v1alpha1.MigrationStatus) {
		s.Phase, s.BytesTransferred = v1alpha1.PhaseSucceeded, 157*mib
		s.Message = "redis-0-b2 runs on n2"
		end := metav1.NewTime(begin.Add(14 * time.Second))
		s.CompletionTime = &end
	})
	return all
}

func TestStoryWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := NewPrinter(&out, 0)
	for _, m := range recorded() {
		// Repeating an update says nothing new.
		for range 2 {
			if err := p.Update(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := `
preflight   passed, 140.0 MiB resident
pod         default/redis-0 moves from n1 to n2
round 0     ██████████████████████▒▒  136.1 MiB in 3.20 s, frozen 120 ms, 12.0 MiB dirty again, downtime would be 2.60 s
round 1     ██▒·····················   12.1 MiB in 600 ms, frozen 120 ms, 8.0 MiB dirty again, downtime would be 1.90 s
pre-copy    1.9s is within 2s
target      redis-0-b2 on n2 waits for the images only, 2 rounds verified
target      redis-0-b2 on n2 took over, 2 rounds verified
switchover  ██████████▒░░░░░░░░░░░░░     1.94 s = freeze and dump 800 ms + hand-over 100 ms + restore 1.04 s
succeeded   redis-0-b2 runs on n2 after 14.0 s, 157.0 MiB moved, down for 1.94 s
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// screen does what a terminal does with the little that is sent to it.
type screen struct {
	t     *testing.T
	width int
	lines []string
	row   int
}

func (s *screen) Write(b []byte) (int, error) {
	rest := string(b)
	for rest != "" {
		switch {
		case strings.HasPrefix(rest, "\x1b["):
			end := strings.IndexAny(rest, "AJ")
			if rest[end] == 'A' {
				n := 0
				for _, c := range rest[2:end] {
					n = n*10 + int(c-'0')
				}
				s.row -= n
			} else {
				s.lines = s.lines[:s.row]
			}
			rest = rest[end+1:]
		case rest[0] == '\r':
			rest = rest[1:]
		default:
			var line string
			line, rest, _ = strings.Cut(rest, "\n")
			s.lines = append(s.lines[:s.row], line)
			s.row++
		}
		if s.row < 0 {
			s.t.Fatal("went above the first line")
		}
	}
	return len(b), nil
}

func TestTerminalShowsEachLineOnce(t *testing.T) {
	s := &screen{t: t, width: 60}
	p := NewPrinter(s, s.width)
	all := recorded()
	for i, m := range all {
		if err := p.Update(m); err != nil {
			t.Fatal(err)
		}
		if want := len(Lines(m)); len(s.lines) != want {
			t.Fatalf("step %d: %d lines on the screen, want %d:\n%s", i, len(s.lines), want, strings.Join(s.lines, "\n"))
		}
		for _, l := range s.lines {
			if n := len([]rune(l)); i < len(all)-1 && n >= s.width {
				t.Errorf("a line of %d cells would wrap: %q", n, l)
			}
		}
	}
	if last := s.lines[len(s.lines)-1]; !strings.HasPrefix(last, "succeeded ") || !strings.HasSuffix(last, "down for 1.94 s") {
		t.Errorf("the last line is cut: %q", last)
	}
}

func TestMessagesCannotControlTheTerminal(t *testing.T) {
	m := recorded()[2]
	m.Status.Phase = v1alpha1.PhaseFailed
	m.Status.Source.Refusals = []v1alpha1.Failure{{Reason: v1alpha1.ReasonMultipathTCP, Container: "app", Message: "\x1b]0;owned\x07 listen\r\non 8080\u009b2J"}}
	m.Status.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonPreflightRefused, Message: "\x1b[2J"}
	var live, table bytes.Buffer
	if err := NewPrinter(&live, 0).Update(m); err != nil {
		t.Fatal(err)
	}
	if err := Summarize(m).WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{live.String(), table.String()} {
		if strings.ContainsAny(out, "\x1b\x07\r\u009b") {
			t.Errorf("%q", out)
		}
	}
	if !strings.Contains(live.String(), "refused     MultipathTCP (app):") || !strings.Contains(live.String(), "failed      PreflightRefused") {
		t.Errorf("%q", live.String())
	}
}

func TestReport(t *testing.T) {
	all := recorded()
	var out bytes.Buffer
	if err := Summarize(all[len(all)-1]).WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	want := `
Migration:  default/redis-0-x7k2p
Phase:      Succeeded
Message:    redis-0-b2 runs on n2
From:       redis-0 on n1
To:         redis-0-b2 on n2
Resident:   140.0 MiB
Took:       14.0 s
Moved:      157.0 MiB

   ROUND     TOOK   FROZEN   SCANNED   UNCHANGED   WRITTEN      MEMORY       BYTES   DIRTY LEFT   PREDICTED
       0   3.20 s   120 ms     66000       31184     34816   136.0 MiB   136.1 MiB     12.0 MiB      2.60 s
       1   600 ms   120 ms     66000       62928      3072    12.0 MiB    12.1 MiB      8.0 MiB      1.90 s
   final   700 ms     0 ms     66000       63952      2048     8.0 MiB     8.1 MiB            -           -

Downtime:          1.94 s  
  freeze and dump  800 ms  ██████████··············
  hand-over        100 ms  █·······················
  restore          1.04 s  █████████████···········
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestContainersAreJoined(t *testing.T) {
	m := recorded()[4]
	other := *m.Status.Source.Containers[0].DeepCopy()
	other.Name = "sidecar"
	other.Rounds = []v1alpha1.RoundStatus{round(0, 2*time.Second, 4*time.Second, 4*mib, mib, 3*time.Second)}
	m.Status.Source.Containers = append(m.Status.Source.Containers, other)
	s := Summarize(m)
	if len(s.Rounds) != 2 {
		t.Fatalf("%d rounds", len(s.Rounds))
	}
	r := s.Rounds[0]
	if r.Containers != 2 || r.MemoryBytes != 140*mib || r.DirtyBytes != 13*mib || r.PagesScanned != 132000 {
		t.Errorf("sizes are not added: %+v", r)
	}
	// From the start of the first to the end of the last.
	if !r.Start.Time.Equal(begin.Add(time.Second)) || r.Duration.Duration != 5*time.Second || r.PredictedDowntime.Duration != 3*time.Second {
		t.Errorf("times are not joined: %+v", r)
	}
	// One container has not finished round 1: nothing final can be said of it.
	for _, l := range Lines(m) {
		if l.Key == "round/1" && l.Final {
			t.Error("round 1 is final before every container has finished it")
		}
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 8 << 20: "8.0 MiB", 1<<30 - 1: "1.0 GiB", 3 << 40: "3.0 TiB", 5 << 50: "5120.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ms", 12 * time.Millisecond: "12 ms", 999600 * time.Microsecond: "1.00 s", 1940 * time.Millisecond: "1.94 s",
		42 * time.Second: "42.0 s", 200 * time.Second: "3m20s", -time.Second: "-1.00 s"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func FuzzBar(f *testing.F) {
	f.Add(24, int64(100), int64(90), int64(20))
	f.Add(1, int64(0), int64(-1), int64(1<<62))
	f.Fuzz(func(t *testing.T, width int, whole, a, b int64) {
		width = width & 0xff
		if got := Bar(width, whole, a, b); len([]rune(got)) != width {
			t.Fatalf("Bar(%d, %d, %d, %d) has %d cells: %q", width, whole, a, b, len([]rune(got)), got)
		}
	})
}

// Of a pod that keeps its name the replacement is a part of the downtime.
func TestDowntimeOfAPodThatKeepsItsName(t *testing.T) {
	span := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	replace := span(12 * time.Second)
	m := &v1alpha1.Migration{}
	m.Status.Phase = v1alpha1.PhaseSucceeded
	m.Status.Downtime = &v1alpha1.DowntimeStatus{Total: span(15 * time.Second), FreezeAndDump: span(time.Second), Handover: span(time.Second), Replace: &replace, Restore: span(time.Second)}
	var lines []string
	for _, l := range Lines(m) {
		lines = append(lines, l.Text)
	}
	const want = "freeze and dump 1.00 s + hand-over 1.00 s + replacement 12.0 s + restore 1.00 s"
	if all := strings.Join(lines, "\n"); !strings.Contains(all, want) {
		t.Errorf("no %q in\n%s", want, all)
	}
	var b strings.Builder
	if err := Summarize(m).WriteTable(&b); err != nil || !strings.Contains(b.String(), "replacement") {
		t.Errorf("%s, %v", b.String(), err)
	}
}
