// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

func TestSeedHasTheNodesOwnFiles(t *testing.T) {
	c, err := controlplane.NewCredentials("test")
	if err != nil {
		t.Fatal(err)
	}
	n := topology.Nodes()[1]
	seed, err := Seed("test", n, c, SSH{AuthorizedKey: []byte("key"), HostKey: []byte("host")})
	if err != nil {
		t.Fatal(err)
	}
	if len(seed)%512 != 0 {
		t.Errorf("%d bytes are no whole number of sectors", len(seed))
	}
	r := tar.NewReader(bytes.NewReader(seed))
	contents := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		contents[h.Name] = string(content)
		if strings.HasSuffix(h.Name, ".key") && h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
	}
	if contents["etc/hostname"] != "n2\n" {
		t.Errorf("hostname %q", contents["etc/hostname"])
	}
	if routes := contents["etc/godwit/ip.batch"]; !strings.Contains(routes, "route replace 10.200.1.0/24 via 10.100.0.11\n") || strings.Contains(routes, "10.200.2.0/24") {
		t.Errorf("routes:\n%s", routes)
	}
	if !json.Valid([]byte(contents["etc/cni/net.d/10-godwit.conflist"])) {
		t.Errorf("network configuration:\n%s", contents["etc/cni/net.d/10-godwit.conflist"])
	}
}

func TestMachinesDiffer(t *testing.T) {
	nodes := topology.Nodes()
	if bytes.Equal(machineID("a", nodes[0]), machineID("a", nodes[1])) || bytes.Equal(machineID("a", nodes[0]), machineID("b", nodes[0])) {
		t.Error("two machines have one id")
	}
	args := Machine{Node: nodes[0], CPUs: 2, MemoryMiB: 5120, TSCKHz: 4711}.Args()
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(a, " tsc_early_khz=4711") }) {
		t.Errorf("the counter's rate is not passed on: %v", args)
	}
	if !slices.Contains(args, "max,erms=off,fsrm=off") || slices.Contains(args, "kvm") {
		t.Errorf("not the emulator: %v", args)
	}
	args = Machine{Node: nodes[0], KVM: true}.Args()
	if !slices.Contains(args, "kvm") {
		t.Errorf("not KVM: %v", args)
	}
}
