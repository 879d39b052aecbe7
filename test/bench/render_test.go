// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

var (
	big   = cell{SizeMiB: 1024, RatePercent: 1, Pattern: "uniform"}
	small = cell{SizeMiB: 64, RatePercent: 1, Pattern: "uniform"}
)

// synthetic results of one run: five repetitions, in which everything gets slower by
// the same factor, so that the ratios stay.
func synthetic() results {
	var rs results
	for rep := 1; rep <= 5; rep++ {
		slow := 1 + 0.1*float64(rep-1)
		for _, c := range []cell{big, small} {
			ours := 4.8 * slow
			rs = append(rs,
				result{
					Run: "r", Method: precopy, cell: c, Rep: rep, ProcessGapSeconds: ours, ClientGapSeconds: ours + 1, TotalSeconds: 60 * slow,
					ResidentBytes: 100, BytesWritten: 150, Decision: "WithinTargetDowntime", Memory: memoryKept,
					Rounds:   []dump{{FrozenSeconds: 0.2, MemoryBytes: 1 << 30}, {FrozenSeconds: 0.1, MemoryBytes: 1 << 20}},
					Final:    &dump{FrozenSeconds: 1.2 * slow, MemoryBytes: 8 << 20},
					Reported: &reported{TotalSeconds: ours, FreezeAndDumpSeconds: 1.2 * slow, HandoverSeconds: 0.1 * slow, RestoreSeconds: 3.5 * slow, PredictedSeconds: ours * 1.1},
					Spans: []span{
						{Lane: "source", Name: "dump", To: 1.2 * slow}, {Lane: "between", Name: "publish", From: 1.2 * slow, To: 1.3 * slow},
						{Lane: "target", Name: "restore", From: 1.3 * slow, To: ours},
					},
				},
				result{Run: "r", Method: floor, cell: c, Rep: rep, ProcessGapSeconds: 5, CRIU: &criuTimes{FrozenSeconds: 0.8 * slow, RestoreSeconds: 3.2 * slow}, Final: &dump{FrozenSeconds: 0.8 * slow}},
				result{Run: "r", Method: containerFloor, cell: c, Rep: rep, ProcessGapSeconds: 6, CRIU: &criuTimes{FrozenSeconds: slow, RestoreSeconds: 3.8 * slow}, Final: &dump{FrozenSeconds: slow}},
				result{Run: "r", Method: stopAndCopy, cell: c, Rep: rep, ProcessGapSeconds: 16 * slow, Final: &dump{FrozenSeconds: 12 * slow}},
				result{Run: "r", Method: runcScript, cell: c, Rep: rep, ProcessGapSeconds: 6 * slow},
				result{Run: "r", Method: podmanMethod, cell: c, Rep: rep, ProcessGapSeconds: 12 * slow},
				result{Run: "r", Method: reschedule, cell: c, Rep: rep, ClientGapSeconds: 4 * slow, Memory: memoryLost},
			)
		}
	}
	return rs
}

func TestVerdict(t *testing.T) {
	found := map[string]claim{}
	for _, c := range verdict(synthetic()) {
		found[c.text] = c
	}
	for text, want := range map[string]claim{
		"1024 MiB, 1 %/s: frozen time of the last dump, of stop-and-copy's, at most 0.15":        {measured: "0.10 (1024 MiB, 1 %/s uniform)", outcome: holds},
		"1024 MiB, 1 %/s: whole downtime, of stop-and-copy's, at most 0.6":                       {measured: "0.30 (1024 MiB, 1 %/s uniform)", outcome: holds},
		"overhead: downtime over the floor of bare CRIU, at most 1.25 in every cell":             {measured: "1.20 in the worst of 2 cells (64 MiB, 1 %/s uniform)", outcome: holds},
		"overhead: downtime over the floor of CRIU with a container, at most 1.25 in every cell": {measured: "1.00 in the worst of 2 cells (64 MiB, 1 %/s uniform)", outcome: holds},
		"error of the predicted downtime, median at most 20 %":                                   {measured: "10 % (quartiles 10–10 %, worst 10 %) of 10", outcome: holds},
		"downtime over that of `runc-script`, below 1 in every cell that converges":              {measured: "0.80 in the worst of 2 cells (64 MiB, 1 %/s uniform)", outcome: holds},
		"downtime over that of `phaul`, below 1 in every cell that converges":                    {measured: "–", outcome: notMeasured},
		"downtime over that of `podman`, below 1 in every cell that converges":                   {measured: "0.40 in the worst of 2 cells (64 MiB, 1 %/s uniform)", outcome: holds},
		"downtime over that of `reschedule`, below 1 in every cell that converges":               {measured: "1.41 in the worst of 2 cells (64 MiB, 1 %/s uniform)", outcome: fails},
	} {
		got, ok := found[text]
		if !ok || got.measured != want.measured || got.outcome != want.outcome {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
	if len(found) != 11 {
		t.Errorf("%d claims", len(found))
	}
}

func TestFewRepetitionsAreSaid(t *testing.T) {
	few := slices.DeleteFunc(synthetic(), func(r result) bool { return r.Rep > 2 })
	if c := overFloor(few, floor, "of bare CRIU"); !strings.Contains(c.measured, "from 2 repetitions only") {
		t.Errorf("%+v", c)
	}
}

// A peer without a container is compared with all the same; what CRIU alone takes with
// one is said beside it.
func TestAPeerWithoutAContainerIsToldApart(t *testing.T) {
	rs := synthetic()
	for i := range rs {
		switch rs[i].Method {
		case runcScript:
			rs[i].Method = phaulMethod
		case containerFloor: // half of the peer's six seconds
			rs[i].CRIU.RestoreSeconds = 2 * rs[i].CRIU.FrozenSeconds
		}
	}
	m, _ := info(phaulMethod)
	c := shorterThan(rs, m)
	if want := "0.80 in the worst of 2 cells (64 MiB, 1 %/s uniform); it moves a bare process, and of CRIU with a container the floor alone is 0.50 in the worst of 2 cells (64 MiB, 1 %/s uniform)"; c.measured != want || c.outcome != holds {
		t.Errorf("%+v", c)
	}
}

func TestWhatDoesNotConvergeIsLeftOut(t *testing.T) {
	rs := synthetic()
	for i := range rs {
		if rs[i].cell == small && rs[i].Final != nil {
			rs[i].Final.MemoryBytes = 40 << 20
		}
	}
	m, _ := info(runcScript)
	if c := shorterThan(rs, m); c.measured != "0.80 (1024 MiB, 1 %/s uniform); without what does not converge: 64 MiB, 1 %/s uniform" {
		t.Errorf("%+v", c)
	}
}

func TestPage(t *testing.T) {
	rs := append(synthetic(), result{Run: "r", Method: phaulMethod, cell: big, Rep: 1, Error: "phaul:\n exit | code 1"})
	all := pages(rs)
	page := all[pageFile]
	for _, want := range []string{
		"70 measurements in 2 cells, of one run (r); 1 failed. After 10 of them it was the same process, and",
		"| 1024 MiB, 1 %/s: whole downtime, of stop-and-copy's, at most 0.6 | 0.30 (1024 MiB, 1 %/s uniform) | holds |",
		`| 1024 MiB, 1 %/s uniform | n | downtime | client | dump | restore | from order to end |
|---|---|---|---|---|---|---|
| ` + "`precopy`" + ` | 5 | 5.76 (5.28–6.24; 4.80–6.72) | 6.76 | 1.44 | 4.20 | 72.00 |
| ` + "`stopandcopy`" + ` | 5 | 19.20 (17.60–20.80; 16.00–22.40) | – | 14.40 | – | – |
| ` + "`floor`" + ` | 5 | 4.80 (4.40–5.20; 4.00–5.60) | – | 0.96 | 3.84 | – |
| ` + "`container-floor`" + ` | 5 | 5.76 (5.28–6.24; 4.80–6.72) | – | 1.20 | 4.56 | – |
`,
		"| 64 MiB, 1 %/s uniform | 1.20 (1.20–1.20; 1.20–1.20) | 1.00 (1.00–1.00; 1.00–1.00) | 0.30 (0.30–0.30; 0.30–0.30) | 0.10 (0.10–0.10; 0.10–0.10) | 0.80 (0.80–0.80; 0.80–0.80) | – |",
		// dump 1.2 - 0.8, hand-over 0.1, restore 3.5 - 3.2, times 1.2 in the median
		"| 1024 MiB, 1 %/s uniform | 0.48 | 0.12 | 0.36 | 0.96 |",
		"| 1024 MiB, 1 %/s uniform | 2 | 1.50 | 8.0 MiB | 0.15 s | 6.34 s | 5.76 s | 5.76 s | 10 % | WithinTargetDowntime |",
		"- 1024 MiB, 1 %/s uniform, `phaul`, repetition 1: phaul: exit | code 1",
		"](" + chartFile + ")", "](" + timelineFile + ")",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks\n%s", want)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
	again := pages(rs)
	for name, content := range all {
		if again[name] != content {
			t.Errorf("%s is another one the second time", name)
		}
	}
}

func TestAPageOfNothing(t *testing.T) {
	all := pages(nil)
	if len(all) != 1 || !strings.Contains(all[pageFile], "Nothing was measured.") || !strings.Contains(all[pageFile], "not measured") {
		t.Errorf("%v", all)
	}
}

func TestPicturesAreXML(t *testing.T) {
	for name, content := range pages(synthetic()) {
		if !strings.HasSuffix(name, ".svg") {
			continue
		}
		texts := 0
		for d := xml.NewDecoder(strings.NewReader(content)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "text" {
				texts++
			}
		}
		if texts < 8 || strings.Contains(content, "NaN") || strings.Contains(content, "Inf") {
			t.Errorf("%s:\n%s", name, content)
		}
	}
}

func TestNiceSteps(t *testing.T) {
	for length, want := range map[float64]float64{0.5: 0.05, 1: 0.1, 4.2: 0.5, 19: 2, 60: 10, 110: 20} {
		if got := niceStep(length); !near(got, want) {
			t.Errorf("%v: %v, want %v", length, got, want)
		}
	}
}

func TestTheTimelineShowsTheTypicalMigration(t *testing.T) {
	r := typical(synthetic())
	if r == nil || r.cell != big || r.Rep != 3 {
		t.Fatalf("%+v", r)
	}
	picture := timeline(synthetic(), r)
	for _, want := range []string{"1  source: dump, 1.44 s", "3  target: restore, 4.20 s", "4  floor: held by the last dump, 0.96 s", "5  floor: restore, 3.84 s"} {
		if !strings.Contains(picture, want) {
			t.Errorf("no %q in\n%s", want, picture)
		}
	}
}

func TestStatusIsRead(t *testing.T) {
	begin := time.Unix(1700000000, 0)
	at := func(ms int) *metav1.MicroTime {
		m := metav1.NewMicroTime(begin.Add(time.Duration(ms) * time.Millisecond))
		return &m
	}
	ms := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Millisecond} }
	predicted := ms(1500)
	m := &v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		BytesTransferred: 300,
		Source: &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{
			ResidentBytes: 200, FrozenAt: at(0), DumpedAt: at(600),
			Convergence: &v1alpha1.ConvergenceStatus{Reason: "DirtyNotShrinking"},
			Containers: []v1alpha1.SourceContainerStatus{{
				Name:      "main",
				Rounds:    []v1alpha1.RoundStatus{{DumpStatus: v1alpha1.DumpStatus{Duration: ms(3000), Frozen: ms(90), MemoryBytes: 200}, DirtyBytes: 40, PredictedDowntime: &predicted}},
				FinalDump: &v1alpha1.DumpStatus{StartTime: *at(100), Duration: ms(450), Frozen: ms(600), MemoryBytes: 50, Bytes: 60},
			}},
		}},
		Target: &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{
			RestoreStartedAt: at(590), RestoredAt: at(1700), // its clock is behind
			Containers: []v1alpha1.TargetContainerStatus{{Name: "main", Restore: &v1alpha1.RestoreStatus{StartTime: *at(650), Duration: ms(1050)}}},
		}},
		Downtime: &v1alpha1.DowntimeStatus{Total: ms(1700), FreezeAndDump: ms(600), Restore: ms(1100), Predicted: &predicted},
	}}
	var r result
	readStatus(&r, m)
	if len(r.Rounds) != 1 || r.Rounds[0].DirtyBytes != 40 || !near(r.Rounds[0].PredictedSeconds, 1.5) || !near(r.Final.FrozenSeconds, 0.6) ||
		r.BytesWritten != 300 || r.ResidentBytes != 200 || !near(r.Reported.TotalSeconds, 1.7) || r.Decision != "DirtyNotShrinking" {
		t.Errorf("%+v", r)
	}
	names, last := "", 0.0
	for _, s := range r.Spans {
		if !near(s.From, last) || s.To <= s.From {
			t.Errorf("%+v does not follow %v", s, last)
		}
		names, last = names+s.Name+"; ", s.To
	}
	if names != "cut the network and freeze; dump; files, seal and digest; tell the wrapper; restore; " || !near(last, 1.7) {
		t.Errorf("%s until %v", names, last)
	}
	if e, ok := predictionError(&r); !ok || !near(e, 0.2/1.7) {
		t.Errorf("error %v, %v", e, ok)
	}
	var failed result
	readStatus(&failed, &v1alpha1.Migration{})
	if failed.Spans != nil || failed.Final != nil {
		t.Errorf("%+v", failed)
	}
}
