// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// timeline is one side's part of a switchover, for the log: what was reached when.
type timeline []milestone

type milestone struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// mark notes that something was reached, and returns all that was.
func (l *timeline) mark(name string, at time.Time) timeline {
	*l = append(*l, milestone{name, at})
	return *l
}
