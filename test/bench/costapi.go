// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// writingVerbs are those of requests that change something.
var writingVerbs = []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}

// label of a metric.
var label = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)

// parseWrites reads the API server's metrics: how many requests that write it has had
// since it started, by "resource" or "resource/subresource". Leases are left out: they
// are renewed all the time, whether anything is migrated or not.
func parseWrites(metrics string) (map[string]int, error) {
	all := map[string]int{}
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, "apiserver_request_total{")
		if !ok {
			continue
		}
		end := strings.LastIndexByte(rest, '}')
		if end < 0 {
			return nil, fmt.Errorf("metric %q has no end of its labels", line)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		labels := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(rest[:end], -1) {
			labels[l[1]] = l[2]
		}
		name := labels["resource"]
		if !slices.Contains(writingVerbs, labels["verb"]) || name == "leases" {
			continue
		}
		if sub := labels["subresource"]; sub != "" {
			name += "/" + sub
		}
		all[name] += int(n)
	}
	if len(all) == 0 {
		return nil, errors.New("the API server's metrics have no apiserver_request_total of requests that write")
	}
	return all, nil
}

func (b *bench) apiWrites(ctx context.Context) (map[string]int, error) {
	metrics, err := b.KubectlRun(ctx, "get", "--raw", "/metrics")
	if err != nil {
		return nil, fmt.Errorf("the API server's metrics: %w", err)
	}
	return parseWrites(metrics)
}

// moreThan is by how much the counts have grown.
func moreThan(before, after map[string]int) map[string]int {
	more := map[string]int{}
	for name, n := range after {
		if d := n - before[name]; d > 0 {
			more[name] = d
		}
	}
	return more
}

// writeKinds are what the page tells apart.
var writeKinds = []string{"Migrations", "their status", "pods", "events", "others"}

// writeKind is the one that a resource belongs to.
func writeKind(resource string) string {
	name, _, _ := strings.Cut(resource, "/")
	switch {
	case resource == "migrations":
		return "Migrations"
	case resource == "migrations/status":
		return "their status"
	case name == "pods", name == "events":
		return name
	}
	return "others"
}

// writesByKind sums the writes up.
func (k *cost) writesByKind() map[string]int {
	all := map[string]int{}
	for name, n := range k.Writes {
		all[writeKind(name)] += n
	}
	return all
}
