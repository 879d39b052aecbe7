// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
)

// When a restore fails at once, kubelet has the next container created while the first
// one's order is still being given. It is not told to restore with it.
func TestACreateThatComesWhileAnotherIsToldWaits(t *testing.T) {
	w := newWorld(t)
	s := w.targetSession()
	s.podUID, s.containers = "pod", []string{"first", "second"}
	parkOne := func(name string) (*parked, net.Conn) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
		for _, c := range []net.Conn{ours, theirs} {
			must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		}
		l := &parked{req: wire.Request{PodUID: s.podUID, ContainerName: name, ContainerID: "id-" + name}, conn: ours}
		must(t, w.parking.park(l))
		return l, theirs
	}
	first, peer := parkOne("first")
	heard := make(chan wire.Verdict, 1)
	go func() {
		defer close(heard)
		var reply wire.Reply
		if err := wire.NewReader(peer).Read(&reply); err != nil {
			t.Error(err)
			return
		}
		heard <- reply.Verdict
	}()
	var second *parked
	dir := func(_ *images.Set, name, _ string) (string, error) {
		if name == "first" {
			second, _ = parkOne("second")
		}
		return "/images/" + name, nil
	}
	must(t, s.tell(time.Minute, dir, (*parked).restore))
	if v := <-heard; v != wire.Restore || first.waits() {
		t.Errorf("the first heard %q", v)
	}
	if !second.waits() {
		t.Error("the second was told with the first")
	}
}
