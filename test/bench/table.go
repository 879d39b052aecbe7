// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// nothing stands for what was not measured.
const nothing = "–"

// table is a Markdown table.
type table struct {
	b    strings.Builder
	rows int
}

func newTable(columns ...string) *table {
	t := &table{}
	t.write(columns)
	t.b.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	return t
}

func (t *table) row(cells ...string) {
	t.rows++
	t.write(cells)
}

func (t *table) write(cells []string) {
	t.b.WriteString("| " + strings.ReplaceAll(strings.Join(cells, "\x00"), "|", `\|`) + " |\n")
}

func (t *table) empty() bool { return t.rows == 0 }

func (t *table) String() string { return strings.ReplaceAll(t.b.String(), "\x00", " | ") + "\n" }

func seconds(v float64) string  { return fmt.Sprintf("%.2f", v) }
func seconds3(v float64) string { return fmt.Sprintf("%.3f", v) }

// full is "3.21 (3.10–3.40; 3.05–3.90)": median, quartiles, extremes.
func full(s spread) string {
	return fmt.Sprintf("%.2f (%.2f–%.2f; %.2f–%.2f)", s.Median, s.Q1, s.Q3, s.Min, s.Max)
}

func fullOf(values []float64) string {
	s := spreadOf(values)
	if s.N == 0 {
		return nothing
	}
	return full(s)
}

// brief is the median alone.
func brief(values []float64) string { return plain("%.2f", values) }

// plain is the median in a format.
func plain(format string, values []float64) string {
	s := spreadOf(values)
	if s.N == 0 {
		return nothing
	}
	return fmt.Sprintf(format, s.Median)
}
