// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/nodetest"
)

// The tests that the fake runtime passes in every unit test run are passed by
// CRIU, runc, containerd and the kernel of a node as well, with the images on
// the shared volume. Nothing else goes on meanwhile.
func TestConformance(t *testing.T) {
	s := begin(t)
	node, err := s.Nodes.Node("n2")
	s.must(err)
	// No migration has such a name, so that no agent sweeps it away.
	volume := harness.ImagesDir + "/.conformance"
	const dir = "/var/lib/godwit-conformance"
	t.Cleanup(func() {
		if t.Failed() {
			return // what failed tests keep is collected after this
		}
		// Whatever is left tells of a test that does not clean up.
		ctx, cancel := context.WithTimeout(context.Background(), scenarioTimeout)
		defer cancel()
		out, err := node.Output(ctx, "rm -rf "+dir+"; find "+volume+" /run/godwit-test -mindepth 1")
		if err != nil || out != "" {
			t.Errorf("the tests left something on the node: %s, %v", out, err)
		}
		if _, err := node.Output(ctx, "rm -rf "+volume+" /run/godwit-test"); err != nil {
			t.Error(err)
		}
	})
	for _, suite := range []struct{ binary, test string }{
		{"runtimetest.test", "TestNode"},
		{"containerd.test", "TestHandlerOnNode"},
		{"criu.test", "TestStopAtASafePoint"},
	} {
		s.must(node.CopyTo(s.ctx, filepath.Join(s.NodeTests, suite.binary), dir+"/"+suite.binary))
		s.runOnNode(node, "cd "+dir+" && GODWIT_NODE_TEST=1 GODWIT_NODE_VOLUME="+volume+
			" ./"+suite.binary+" -test.v=test2json -test.timeout=8m -test.run='^"+suite.test+"$'")
	}
	// A restart of containerd is among the tests.
	s.must(s.AwaitReady(s.ctx))
}

// runOnNode runs a test binary and shows its tests as subtests.
func (s *scenario) runOnNode(node *clusterclient.Node, line string) {
	s.Helper()
	convert := exec.CommandContext(s.ctx, "go", "tool", "test2json", "-t")
	output, err := convert.StdinPipe()
	s.must(err)
	events, err := convert.StdoutPipe()
	s.must(err)
	var complaint bytes.Buffer
	convert.Stderr = &complaint
	s.must(convert.Start())
	var code int
	var unreachable error
	var ran sync.WaitGroup
	ran.Go(func() {
		code, unreachable = node.Stream(s.ctx, "{ "+line+"; } 2>&1", nil, output, nil)
		_ = output.Close()
	})
	nodetest.Replay(s.T, events)
	// What Replay may have left must not block the node.
	_, _ = io.Copy(io.Discard, events)
	ran.Wait()
	s.must(unreachable)
	if err := convert.Wait(); err != nil {
		s.Errorf("test2json: %v: %s", err, complaint.String())
	}
	if code != 0 && !s.Failed() {
		s.Errorf("the test binary ended with exit code %d", code)
	}
}
