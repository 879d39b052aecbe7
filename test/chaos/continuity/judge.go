// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"slices"
	"time"
)

// Verdict is what the log says about a stretch of time.
type Verdict struct {
	// Copies is the most writers ever seen at once: the same memory in two
	// pods, or two memories, each of which wrote between two writes of the other.
	Copies int
	// Returned counts writes from a pod that another one had taken over from.
	Returned int
	// Lost numbers were skipped, Repeated ones came again though they had been
	// acknowledged, or came twice from one and the same attempt.
	Lost, Repeated int
	// Restarts counts the times that the program started afresh: what was in
	// its memory is gone.
	Restarts int
	// Silence is the longest time without a record.
	Silence time.Duration
	// Records were looked at.
	Records int
	// Problems say what is behind the numbers.
	Problems []string
}

// maxProblems keeps a log that is all wrong from filling the report.
const maxProblems = 10

// writer is one memory in one pod.
type writer struct{ incarnation, pod string }

// span is when a writer was seen first and last, as positions in the log.
type span struct{ first, last int }

// Judge looks at records in the order of their arrival. Verdicts are about the
// time since the last Begin; what came before is known all the same.
//
// A write is legitimate if it is the number after the last one, or the last one
// with a higher attempt: the acknowledgement may have been lost. An attempt is
// counted in memory before it is sent and is sent once, so the same attempt
// twice is two copies of one memory, however short one of them lived. And once a
// memory has written from another pod it must never write from the one before:
// that one was frozen for good.
type Judge struct {
	last  Record
	count int
	// current is the writer who has taken over last; left are all before it.
	current writer
	left    map[writer]bool

	verdict Verdict
	// spans of all writers, a new one for each return; open is the latest of each.
	spans []*span
	open  map[writer]*span
	from  time.Time
}

// NewJudge returns a judge who has seen nothing.
func NewJudge() *Judge {
	return &Judge{left: map[writer]bool{}, open: map[writer]*span{}}
}

// Begin starts a new stretch at that moment. Whoever wrote last is the one who
// may go on, whatever the verdict on that was.
func (j *Judge) Begin(now time.Time) {
	j.verdict, j.spans, j.open, j.from = Verdict{}, nil, map[writer]*span{}, now
	if j.count > 0 {
		j.take(writer{j.last.Incarnation, j.last.Pod})
	}
}

// take makes w the writer who may go on.
func (j *Judge) take(w writer) {
	if w == j.current {
		return
	}
	if j.count > 1 {
		j.left[j.current] = true
	}
	delete(j.left, w)
	j.current = w
}

// Add looks at the next record.
func (j *Judge) Add(r Record) {
	v := &j.verdict
	v.Records++
	j.count++
	previous := j.from
	if v.Records > 1 {
		previous = j.last.At
	}
	if !previous.IsZero() {
		v.Silence = max(v.Silence, r.At.Sub(previous))
	}
	j.order(r)
	w := writer{r.Incarnation, r.Pod}
	back := j.left[w]
	if back {
		// It stays the one that has been left: each of its writes is wrong.
		v.Returned++
		j.problem("%v: written after pod %.8s had taken over", r, j.current.pod)
	} else {
		j.take(w)
	}
	// Of one that comes back nobody knows that it ran in between.
	if s := j.open[w]; s == nil || back && w != (writer{j.last.Incarnation, j.last.Pod}) {
		j.open[w] = &span{j.count, j.count}
		j.spans = append(j.spans, j.open[w])
	} else {
		s.last = j.count
	}
	j.last = r
}

// order checks the number against the one before.
func (j *Judge) order(r Record) {
	v, last := &j.verdict, j.last
	switch {
	case j.count > 1 && r.Incarnation == last.Incarnation:
		switch {
		case r.Number == last.Number && r.Attempt > last.Attempt, r.Number == last.Number+1:
		case r.Number > last.Number+1:
			v.Lost += int(r.Number - last.Number - 1)
			j.problem("%v: the number before was %d", r, last.Number)
		default:
			v.Repeated++
			j.problem("%v: came after %v", r, last)
		}
	case j.count > 1:
		v.Restarts++
		j.problem("%v: another start of the program; before: %v", r, last)
		fallthrough
	default:
		if j.count > 1 && r.Number > 1 {
			v.Lost += int(r.Number - 1)
			j.problem("%v: a new start did not begin with 1", r)
		}
	}
}

func (j *Judge) problem(format string, args ...any) {
	if len(j.verdict.Problems) < maxProblems {
		j.verdict.Problems = append(j.verdict.Problems, fmt.Sprintf(format, args...))
	}
}

// Verdict is about everything since Begin; now ends the silence that goes on.
func (j *Judge) Verdict(now time.Time) Verdict {
	v := j.verdict
	v.Problems = slices.Clone(v.Problems)
	since := j.from
	if v.Records > 0 {
		since = j.last.At
	}
	if !since.IsZero() {
		v.Silence = max(v.Silence, now.Sub(since))
	}
	v.Copies = overlap(j.spans)
	return v
}

// overlap is the most spans that cover one place.
func overlap(spans []*span) int {
	most := 0
	for _, at := range spans {
		n := 0
		for _, s := range spans {
			if s.first <= at.first && at.first <= s.last {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
