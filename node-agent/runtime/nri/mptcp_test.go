// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// network starts a process in a network of its own, as a pod has one, and returns it
// with what asks the network for its switch.
func network(t *testing.T) (pid uint32, enabled func() string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: networks")
	}
	if _, err := os.Stat(mptcpSwitch); err != nil {
		t.Skip(err)
	}
	// It prints the switch for every line that it reads.
	cmd := exec.Command("sh", "-c", "while read -r line; do cat "+mptcpSwitch+"; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return uint32(cmd.Process.Pid), func() string {
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		n, err := out.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b[:n]))
	}
}

func TestMultipathTCPIsSwitchedOffByLabel(t *testing.T) {
	off := map[string]string{runtime.LabelMultipathTCP: runtime.MultipathTCPOff}
	socket := filepath.Join(t.TempDir(), "nri.sock")
	a := fakeRuntime(t, socket)
	defer a.Stop()
	await(t, start(t, socket), true)
	for name, c := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"with the label":     {off, "0"},
		"with another value": {map[string]string{runtime.LabelMultipathTCP: "on"}, "1"},
		"without":            {nil, "1"},
	} {
		pid, enabled := network(t)
		if got := enabled(); got != "1" {
			t.Skipf("a new network has %q", got)
		}
		for range 2 {
			unblock := a.BlockPluginSync()
			_, err := a.CreateContainer(t.Context(), &api.CreateContainerRequest{
				Pod:       &api.PodSandbox{Id: "sandbox", Uid: "uid", Name: "pod", Namespace: "default", Pid: pid, Labels: c.labels},
				Container: &api.Container{Id: "container", PodSandboxId: "sandbox", Name: "main"},
			})
			unblock.Unblock()
			if err != nil {
				t.Fatal(err)
			}
			if got := enabled(); got != c.want {
				t.Errorf("%s: the switch is %q, want %q", name, got, c.want)
			}
		}
	}
}

// A pod in the node's network switches nothing off for the node.
func TestMultipathTCPOfTheNodeStays(t *testing.T) {
	before, err := os.ReadFile(mptcpSwitch)
	if err != nil {
		t.Skip(err)
	}
	labels := map[string]string{runtime.LabelMultipathTCP: runtime.MultipathTCPOff}
	p := plugin{initPID: os.Getpid()}
	for _, pid := range []uint32{uint32(os.Getpid()), uint32(os.Getppid()), 0} {
		if err := p.withoutMultipathTCP(&api.PodSandbox{Pid: pid, Labels: labels}); err != nil {
			t.Error(err)
		}
	}
	if after, err := os.ReadFile(mptcpSwitch); err != nil || string(after) != string(before) {
		t.Errorf("the node's switch is %q, was %q: %v", after, before, err)
	}
}
