// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"

	"godwit.dev/godwit/internal/progress"
)

// page is docs/compatibility.md.
var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"cell": cell, "verdict": verdict, "moves": perMove, "lost": lost,
}).Parse(`# Compatibility

Software that was moved from one node to another and back, with a client that writes,
reads and compares all the while, and clients that keep a connection and have no patience
of their own. This page is made of what ` + "`make compat`" + ` has measured; do not edit
it. The nodes are two emulated virtual machines, which are about ten times slower than hardware:
the times are to be compared with each other.

| Program | Version | What it holds | Result |
|---|---|---|---|
{{range .}}| {{cell .Title}} | {{cell .Version}} | {{cell .Has}} | {{cell (verdict .)}} |
{{end}}
“Nothing lost” means: every write that was acknowledged was there afterwards, with every
byte; the process is the one that was started, by what it keeps in its memory only; it goes
on working, has seen no step of its monotonic clock, and its container was not restarted.
Timers that the kernel keeps for a process (timerfd, setitimer, POSIX timers) go on with
what they had left, so they may be late by the time for which it stood still.

## Measured

Each cell is the way there / the way back.

| Program | Downtime | Longest time without an answer, as a client saw it | A client on an old connection learned of its end after | Values compared | Lost |
|---|---|---|---|---|---|
{{range .}}{{if .Moves}}| {{cell .Title}} | {{moves . "downtime"}} | {{moves . "gap"}} | {{moves . "told"}} | {{moves . "keys"}} | {{lost .}} |
{{end}}{{end}}
The time after which a client on an old connection learned of its end counts from the last
answer that it got, so the downtime is part of it.
{{range .}}{{if .Problems}}
### {{.Title}} failed

{{range .Problems}}- {{.}}
{{end}}{{end}}{{end}}`))

func render(w io.Writer, results []Result) error {
	order := map[string]int{}
	sorted := slices.Clone(results)
	for i, p := range programs() {
		order[p.name] = i
		if !slices.ContainsFunc(results, func(r Result) bool { return r.Name == p.name }) {
			sorted = append(sorted, Result{Name: p.name, Title: p.title, Has: p.has})
		}
	}
	slices.SortStableFunc(sorted, func(a, b Result) int { return order[a.Name] - order[b.Name] })
	return page.Execute(w, sorted)
}

// verdict is works, works with a setting, or refused.
func verdict(r Result) string {
	switch {
	case len(r.Moves)+len(r.Problems) == 0 && r.Refused == "":
		return "not measured yet"
	case !r.ok():
		return "**failed**, see below"
	case r.Refused != "":
		return fmt.Sprintf("refused by the preflight, `%s`: %s", r.Refused, r.Message)
	case r.Setting != "":
		return "works with " + r.Setting + "; nothing lost"
	}
	return "works; nothing lost"
}

// cell keeps a text from ending its cell of a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}

func perMove(r Result, what string) string {
	var cells []string
	for _, m := range r.Moves {
		of := map[string]time.Duration{"downtime": m.downtime(), "gap": m.Gap, "told": m.Told}
		if what == "keys" {
			cells = append(cells, fmt.Sprint(m.Keys))
		} else {
			cells = append(cells, progress.Duration(of[what]))
		}
	}
	return strings.Join(cells, " / ")
}

func lost(r Result) int {
	n := 0
	for _, m := range r.Moves {
		n += m.Lost
	}
	return n
}
