// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"strings"
	"testing"
	"time"
)

var begun = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// judge reads a made-up log, one record a second: "INCARNATION NUMBER ATTEMPT POD".
func judge(t *testing.T, lines ...string) Verdict {
	t.Helper()
	j := NewJudge()
	j.Begin(begun)
	now := begun
	for _, line := range lines {
		now = now.Add(time.Second)
		r, err := ParseRecord(line, now)
		if err != nil {
			t.Fatal(err)
		}
		j.Add(r)
	}
	return j.Verdict(now)
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		log                              []string
		copies, lost, repeated, restarts int
		returned                         int
		innocent                         bool
		says                             string
	}{
		"one process": {
			log: []string{"i 1 1 a", "i 2 1 a", "i 3 1 a"}, copies: 1, innocent: true},
		"it moves": {
			log: []string{"i 1 1 a", "i 2 1 a", "i 3 1 b", "i 4 1 b"}, copies: 1, innocent: true},
		"it moves there and back, in a new pod each time": {
			log: []string{"i 1 1 a", "i 2 1 b", "i 3 1 c"}, copies: 1, innocent: true},
		"an acknowledgement was lost": {
			log: []string{"i 1 1 a", "i 2 1 a", "i 2 2 a", "i 3 1 a"}, copies: 1, innocent: true},
		"a write never arrived": {
			log: []string{"i 1 1 a", "i 2 3 a"}, copies: 1, innocent: true},
		"an acknowledgement was lost in the move": {
			log: []string{"i 1 1 a", "i 2 1 a", "i 2 2 b", "i 3 1 b"}, copies: 1, innocent: true},
		"the source goes on beside the target": {
			log:    []string{"i 1 1 a", "i 2 1 a", "i 3 1 b", "i 3 1 a", "i 4 1 b", "i 4 1 a"},
			copies: 2, repeated: 2, returned: 2, says: "after pod b had taken over"},
		"the source writes once more": {
			log:    []string{"i 1 1 a", "i 2 1 b", "i 3 1 a"},
			copies: 1, returned: 1, says: "after pod b had taken over"},
		"the source comes back after the target ran": {
			log:    []string{"i 1 1 a", "i 2 1 b", "i 3 1 b", "i 2 1 a", "i 3 1 a"},
			copies: 1, repeated: 1, returned: 2, says: "came after"},
		"two copies, in step, none of which repeats the other's last": {
			log:    []string{"i 1 1 a", "i 2 1 a", "i 3 1 b", "i 4 1 a", "i 5 1 b"},
			copies: 2, returned: 1, says: "taken over"},
		"the images are restored twice": {
			log:    []string{"i 1 1 a", "i 2 1 b", "i 3 1 b", "i 2 1 b", "i 3 1 b"},
			copies: 1, repeated: 1, says: "came after"},
		"the images are restored twice, the first time for one write": {
			log:    []string{"i 1 1 a", "i 2 1 b", "i 2 1 b"},
			copies: 1, repeated: 1, says: "came after"},
		"a number is lost": {
			log: []string{"i 1 1 a", "i 3 1 a"}, copies: 1, lost: 1, says: "before was 1"},
		"numbers are lost in the move": {
			log: []string{"i 1 1 a", "i 5 1 b"}, copies: 1, lost: 3, says: "before was 1"},
		"an acknowledged number comes again": {
			log: []string{"i 1 1 a", "i 2 1 a", "i 1 2 a"}, copies: 1, repeated: 1, says: "came after"},
		"started from the image": {
			log: []string{"i 1 1 a", "i 2 1 a", "k 1 1 a"}, copies: 1, restarts: 1, says: "another start"},
		"a fresh copy beside the source": {
			log:    []string{"i 1 1 a", "k 1 1 b", "i 2 1 a", "k 2 1 b"},
			copies: 2, restarts: 3, lost: 2, returned: 1, says: "another start"},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(t, c.log...)
			if v.Copies != c.copies || v.Lost != c.lost || v.Repeated != c.repeated || v.Restarts != c.restarts || v.Returned != c.returned {
				t.Errorf("%+v", v)
			}
			if got := strings.Join(v.Problems, "\n"); c.innocent != (got == "") || !strings.Contains(got, c.says) {
				t.Errorf("problems %q", got)
			}
		})
	}
}

// A verdict is about one stretch, but what came before is not forgotten.
func TestStretches(t *testing.T) {
	j := NewJudge()
	at := func(s int) time.Time { return begun.Add(time.Duration(s) * time.Second) }
	j.Begin(at(0))
	j.Add(Record{At: at(1), Incarnation: "i", Number: 1, Attempt: 1, Pod: "a"})
	j.Add(Record{At: at(5), Incarnation: "i", Number: 2, Attempt: 1, Pod: "b"})
	if v := j.Verdict(at(6)); v.Silence != 4*time.Second || v.Records != 2 || len(v.Problems) != 0 {
		t.Errorf("%+v", v)
	}
	j.Begin(at(7))
	if v := j.Verdict(at(17)); v.Silence != 10*time.Second || v.Records != 0 || v.Copies != 0 {
		t.Errorf("nothing arrived: %+v", v)
	}
	j.Add(Record{At: at(18), Incarnation: "i", Number: 3, Attempt: 1, Pod: "a"})
	j.Add(Record{At: at(19), Incarnation: "i", Number: 6, Attempt: 1, Pod: "b"})
	v := j.Verdict(at(19))
	if v.Lost != 2 || v.Returned != 1 || v.Silence != 11*time.Second || len(v.Problems) != 2 {
		t.Errorf("%+v", v)
	}
	// What was wrong once is not wrong for ever: whoever wrote last may go on.
	j.Begin(at(20))
	j.Add(Record{At: at(21), Incarnation: "i", Number: 7, Attempt: 1, Pod: "b"})
	j.Add(Record{At: at(22), Incarnation: "i", Number: 8, Attempt: 1, Pod: "a"})
	if v := j.Verdict(at(22)); v.Returned != 1 {
		t.Errorf("%+v", v)
	}
	j.Begin(at(23))
	j.Add(Record{At: at(24), Incarnation: "i", Number: 9, Attempt: 1, Pod: "a"})
	j.Add(Record{At: at(25), Incarnation: "i", Number: 10, Attempt: 1, Pod: "c"})
	if v := j.Verdict(at(25)); len(v.Problems) != 0 || v.Copies != 1 {
		t.Errorf("%+v", v)
	}
}

func TestParseRecord(t *testing.T) {
	r, err := ParseRecord("i 7 2 p\n", begun)
	if err != nil || r != (Record{At: begun, Incarnation: "i", Number: 7, Attempt: 2, Pod: "p"}) {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "i 7 2", "i x 2 p", "i 7 -2 p", "i 7 2 p q"} {
		if _, err := ParseRecord(bad, begun); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
