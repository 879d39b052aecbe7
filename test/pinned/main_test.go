// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
)

const pinnedAddress = "10.100.0.200"

// machine is a network of its own, held by a process.
func machine(t *testing.T) (ns netns.NsHandle, path string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	path = "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net"
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns, path
}

// in calls fn on a thread of a machine's network.
func in(t *testing.T, ns netns.NsHandle, fn func() error) {
	t.Helper()
	if err := thread.Do(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return fn()
	}); err != nil {
		t.Fatal(err)
	}
}

// ip runs a batch of ip(8)'s commands in this thread's network.
func ip(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// An address moves from one node to another, and whoever knew it finds it there.
func TestTheAddressMoves(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8)")
	}
	host, _ := machine(t)
	in(t, host, func() error {
		return ip("link add br0 type bridge", "addr add 10.100.0.1/24 dev br0", "link set br0 up")
	})
	var nodes []netns.NsHandle
	for i := range 2 {
		ns, path := machine(t)
		nodes = append(nodes, ns)
		in(t, host, func() error {
			return ip(fmt.Sprintf("link add tap%d type veth peer name eth0 netns %s", i, strings.Split(path, "/")[2]),
				fmt.Sprintf("link set tap%d master br0 up", i))
		})
		in(t, ns, func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), ip("link set lo up", "link set eth0 up",
				fmt.Sprintf("addr add 10.100.0.%d/24 dev eth0", 11+i), "route add default via 10.100.0.1"))
		})
	}
	conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "test", "type": "pinned", "delegate": map[string]any{"type": "other"},
		"runtimeConfig": map[string]any{capability: map[string]string{annotation: pinnedAddress}}})
	if err != nil {
		t.Fatal(err)
	}
	for round, node := range []netns.NsHandle{nodes[0], nodes[1], nodes[0]} {
		pod, path := machine(t)
		t.Setenv("CNI_NETNS", path)
		t.Setenv("CNI_IFNAME", "eth0")
		t.Setenv("CNI_CONTAINERID", fmt.Sprintf("0123456789abcdef%d", round))
		var out bytes.Buffer
		in(t, node, func() error { return run("ADD", bytes.NewReader(conf), &out) })
		var result struct {
			IPs []struct{ Address string }
		}
		if err := json.Unmarshal(out.Bytes(), &result); err != nil || len(result.IPs) != 1 || result.IPs[0].Address != pinnedAddress+"/32" {
			t.Fatalf("%s, %v", out.String(), err)
		}
		var listener net.Listener
		in(t, pod, func() (err error) { listener, err = net.Listen("tcp4", ":7000"); return err })
		for _, from := range append([]netns.NsHandle{host}, nodes...) {
			in(t, from, func() error {
				conn, err := net.DialTimeout("tcp4", pinnedAddress+":7000", 3*time.Second)
				if err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
				defer conn.Close()
				served, err := listener.Accept()
				if err != nil {
					return err
				}
				return served.Close()
			})
		}
		listener.Close()
		in(t, node, func() error { return run("DEL", bytes.NewReader(conf), &out) })
		in(t, node, func() error {
			links, err := netlink.LinkList()
			if err == nil && len(links) != 2 {
				err = fmt.Errorf("%d interfaces", len(links))
			}
			return err
		})
	}
}

// Pods that ask for nothing are the other plugin's.
func TestOtherPodsAreLeftToTheDelegate(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte("#!/bin/sh\necho \"$CNI_COMMAND $(cat)\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CNI_PATH", dir)
	t.Setenv("CNI_CONTAINERID", "nobody")
	conf := `{"cniVersion":"1.0.0","name":"test","delegate":{"type":"other","bridge":"cni0"},"runtimeConfig":{"` + capability + `":{"x":"y"}}}`
	for _, command := range []string{"ADD", "DEL", "CHECK"} {
		t.Setenv("CNI_COMMAND", command)
		var out bytes.Buffer
		if err := run(command, strings.NewReader(conf), &out); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(out.String()), command+` {"bridge":"cni0","cniVersion":"1.0.0","name":"test","type":"other"}`; got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}
