// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command pinned is a network plugin (CNI) for tests, which gives a pod the address that
// its annotation test.godwit.dev/address asks for, on whatever node it is. The address is
// one of the nodes' own network: the node that has the pod routes it to the pod, answers
// for it there (proxy ARP), and says so when the pod comes. Nobody else needs to know.
//
// All other pods are left to the plugin in "delegate".
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	annotation = "test.godwit.dev/address"
	// capability by which containerd hands a pod's annotations on.
	capability = "io.kubernetes.cri.pod-annotations"
	// uplink of a node; hop is what a pod takes for its router, and its node answers for.
	uplink = "eth0"
	hop    = "169.254.1.1"
)

// config is the plugin's configuration.
type config struct {
	CNIVersion    string                       `json:"cniVersion"`
	Name          string                       `json:"name"`
	Delegate      map[string]any               `json:"delegate"`
	PrevResult    json.RawMessage              `json:"prevResult,omitempty"`
	RuntimeConfig map[string]map[string]string `json:"runtimeConfig"`
}

func main() {
	if err := run(os.Getenv("CNI_COMMAND"), os.Stdin, os.Stdout); err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "code": 100, "msg": err.Error()})
		os.Exit(1)
	}
}

func run(command string, in io.Reader, out io.Writer) error {
	if command == "VERSION" {
		return json.NewEncoder(out).Encode(map[string]any{"cniVersion": "1.0.0", "supportedVersions": []string{"1.0.0"}})
	}
	var c config
	if err := json.NewDecoder(in).Decode(&c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	address := c.RuntimeConfig[capability][annotation]
	switch {
	case command == "DEL":
		// What is gone need not be removed, and of a pod that is gone the annotations may be.
		found, err := remove(os.Getenv("CNI_CONTAINERID"))
		if found || err != nil || address != "" {
			return err
		}
	case command == "ADD" && address != "":
		return add(c, address, out)
	case address != "":
		return nil
	}
	return delegate(c, out)
}

// delegate runs the other plugin in this one's environment.
func delegate(c config, out io.Writer) error {
	kind, _ := c.Delegate["type"].(string)
	c.Delegate["cniVersion"], c.Delegate["name"] = c.CNIVersion, c.Name
	if c.PrevResult != nil {
		c.Delegate["prevResult"] = c.PrevResult
	}
	conf, err := json.Marshal(c.Delegate)
	if err != nil {
		return err
	}
	for _, dir := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		program := filepath.Join(dir, kind)
		if _, err := os.Stat(program); err != nil {
			continue
		}
		var said bytes.Buffer
		cmd := exec.Command(program)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &said, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", kind, err, said.String())
		}
		_, err := said.WriteTo(out)
		return err
	}
	return fmt.Errorf("there is no plugin %q", kind)
}

// wire is the name of the node's end of a pod's interface.
func wire(id string) string { return "pin" + id[:min(len(id), 12)] }

func remove(id string) (found bool, err error) {
	link, err := netlink.LinkByName(wire(id))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	return true, err
}

func add(c config, address string, out io.Writer) error {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return fmt.Errorf("%s=%q is no address of IPv4", annotation, address)
	}
	path, name, host := os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME"), wire(os.Getenv("CNI_CONTAINERID"))
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer ns.Close()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: name, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("make %s: %w", host, err)
	}
	if err := connect(host, name, ip, ns); err != nil {
		return errors.Join(err, netlink.LinkDel(link))
	}
	return json.NewEncoder(out).Encode(map[string]any{
		"cniVersion": c.CNIVersion,
		"interfaces": []map[string]any{{"name": host}, {"name": name, "sandbox": path}},
		"ips":        []map[string]any{{"address": ip.String() + "/32", "interface": 1}},
		"dns":        map[string]any{},
	})
}

// connect sets both ends of a pod's interface up, and announces the address.
func connect(host, name string, ip net.IP, ns netns.NsHandle) error {
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	eth, err := inside.LinkByName(name)
	if err != nil {
		return err
	}
	single := func(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)} }
	router := net.ParseIP(hop).To4()
	wired, err := netlink.LinkByName(host)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return inside.AddrAdd(eth, &netlink.Addr{IPNet: single(ip)}) },
		func() error { return inside.LinkSetUp(eth) },
		func() error {
			return inside.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: single(router), Scope: netlink.SCOPE_LINK})
		},
		func() error {
			return inside.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: router})
		},
		func() error { return proxyARP(host) },
		func() error { return proxyARP(uplink) },
		func() error { return netlink.LinkSetUp(wired) },
		func() error {
			return netlink.RouteReplace(&netlink.Route{LinkIndex: wired.Attrs().Index, Dst: single(ip), Scope: netlink.SCOPE_LINK})
		},
		func() error { return announce(ip) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func proxyARP(link string) error {
	dir := "/proc/sys/net/ipv4/"
	return errors.Join(os.WriteFile(dir+"conf/"+link+"/proxy_arp", []byte("1"), 0), os.WriteFile(dir+"neigh/"+link+"/proxy_delay", []byte("0"), 0))
}

// announce has everybody on the nodes' network learn anew who answers for the address.
func announce(ip net.IP) error {
	link, err := net.InterfaceByName(uplink)
	if err != nil {
		return err
	}
	const broadcast = "\xff\xff\xff\xff\xff\xff"
	frame := append([]byte(broadcast), link.HardwareAddr...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_ARP)
	// Ethernet, IPv4, and their lengths; a request for the address by itself (RFC 826, 5227).
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, link.HardwareAddr...), ip...)
	frame = append(append(frame, make([]byte, 6)...), ip...)
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for range 3 {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: network, Ifindex: link.Index}); err != nil {
			return fmt.Errorf("announce %s: %w", ip, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}
