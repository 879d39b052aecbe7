// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package continuity keeps the log that a sequence (see test/workloads/sequence)
// is written to, and judges from it whether one process went on without a gap,
// without a repetition, and alone.
package continuity

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Record is one line of the log.
type Record struct {
	// At is when the log received it, by the log's own clock.
	At time.Time
	// Incarnation names one start of the program.
	Incarnation string
	// Number is the number written, Attempt counts the writes of it.
	Number, Attempt uint64
	// Pod is the UID of the pod in which the writer was.
	Pod string
}

// ParseRecord reads "INCARNATION NUMBER ATTEMPT POD".
func ParseRecord(line string, at time.Time) (Record, error) {
	f := strings.Fields(line)
	if len(f) != 4 {
		return Record{}, fmt.Errorf("%q is not a record", line)
	}
	number, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("record %q: %w", line, err)
	}
	attempt, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("record %q: %w", line, err)
	}
	return Record{At: at, Incarnation: f[0], Number: number, Attempt: attempt, Pod: f[3]}, nil
}

// String is a record for people.
func (r Record) String() string {
	return fmt.Sprintf("%s %.8s %d/%d from pod %.8s", r.At.Format("15:04:05.000"), r.Incarnation, r.Number, r.Attempt, r.Pod)
}
