// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"
	"testing"
)

func TestAddressesDoNotOverlap(t *testing.T) {
	ranges := []string{Network, PodCIDR, ServiceCIDR}
	for i, a := range ranges {
		for _, b := range ranges[i+1:] {
			if netip.MustParsePrefix(a).Overlaps(netip.MustParsePrefix(b)) {
				t.Errorf("%s overlaps %s", a, b)
			}
		}
	}
	seen := map[string]bool{ControlPlaneIP: true}
	pods := netip.MustParsePrefix(PodCIDR)
	for _, n := range Nodes() {
		own := netip.MustParsePrefix(n.PodCIDR)
		switch {
		case !netip.MustParsePrefix(Network).Contains(netip.MustParseAddr(n.IP)):
			t.Errorf("%s: %s is outside %s", n.Name, n.IP, Network)
		case !pods.Contains(own.Addr()):
			t.Errorf("%s: %s is outside %s", n.Name, own, pods)
		case !own.Contains(netip.MustParseAddr(n.PodGateway)):
			t.Errorf("%s: gateway %s is outside %s", n.Name, n.PodGateway, own)
		}
		for _, unique := range []string{n.Name, n.IP, n.MAC, n.Tap, n.PodCIDR} {
			if seen[unique] {
				t.Errorf("%s is used twice", unique)
			}
			seen[unique] = true
		}
	}
	for _, ip := range []string{APIServiceIP, DNSServiceIP} {
		if !netip.MustParsePrefix(ServiceCIDR).Contains(netip.MustParseAddr(ip)) {
			t.Errorf("%s is outside %s", ip, ServiceCIDR)
		}
	}
}

func TestFindNode(t *testing.T) {
	if n, err := FindNode("n2"); err != nil || n.IP != "10.100.0.12" {
		t.Errorf("FindNode(n2) = %+v, %v", n, err)
	}
	if _, err := FindNode("n3"); err == nil {
		t.Error("FindNode(n3) found something")
	}
}
