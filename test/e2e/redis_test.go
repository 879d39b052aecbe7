// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"strconv"
	"testing"

	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

// A database moves while a client writes and reads through its Service. No
// acknowledged write may be lost, and kubectl alone must tell how it went.
func TestRedisMovesUnderLoad(t *testing.T) {
	s := begin(t)
	const port = 6379
	service := harness.Service(s.namespace, "redis", port)
	s.must(s.Create(s.ctx, service))
	pod := s.start(harness.Pod(s.namespace, "redis", s.Redis))
	client := redisload.Connect(net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(port)))
	defer func() { _ = client.Close() }()
	s.must(client.AwaitAnswer(s.ctx))

	ledger := redisload.NewLedger(client)
	s.must(ledger.Fill(s.ctx, 2048, 16<<10, nil))
	before, err := client.Identity(s.ctx)
	s.must(err)
	load := redisload.StartLoad(s.ctx, ledger, redisload.DefaultPace())
	defer load.Stop()
	s.must(load.AwaitOperations(s.ctx, 100))

	// No target node: the scheduler chooses, and never the source.
	m := s.migration("move", pod.Name)
	moved := s.arrived(m)
	s.must(load.AwaitOperations(s.ctx, 100))
	stats := load.Stop()
	t.Logf("client: %d writes, %d reads, %d attempts repeated, longest gap %s", stats.Writes, stats.Reads, stats.Errors, stats.Longest.Length())
	if len(stats.Losses) > 0 {
		t.Errorf("wrong reads: %v", stats.Losses)
	}
	after, err := client.Identity(s.ctx)
	s.must(err)
	if !after.Same(before) {
		t.Errorf("another process answers: %+v, was %+v", after, before)
	}
	report, err := ledger.Verify(s.ctx)
	s.must(err)
	if !report.OK() || report.Keys != ledger.Keys() {
		t.Errorf("keys: %+v", report)
	}
	s.nothingLeft(m)
	s.tellsTheStory(m, moved)
}
