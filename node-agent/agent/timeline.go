// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// marks is a part of a switchover's timeline, for the log: what was reached when.
type marks []mark

type mark struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// mark notes that something was reached, and returns all that was.
func (m *marks) mark(name string, at time.Time) marks {
	*m = append(*m, mark{name, at})
	return *m
}
