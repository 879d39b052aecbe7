// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// look inspects this very process.
func look(t *testing.T) runtime.Inspection {
	t.Helper()
	var in runtime.Inspection
	g := gatherer{sockets: map[uint64]bool{}, parents: map[int]int{}, in: &in}
	if err := g.process(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	return in
}

func keep(t *testing.T, fd int, err error) int {
	t.Helper()
	if err != nil {
		t.Skipf("not on this kernel: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestListenersOnEveryAddressAreFine(t *testing.T) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in := look(t)
	if len(in.BoundAddresses) != 0 || len(in.MultipathTCP) != 0 || len(in.UnsupportedSockets) != 0 || in.IOUring {
		t.Errorf("found %+v", in)
	}
}

func TestMultipathTCP(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	keep(t, fd, err)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	want, err := address(sa, err)
	if err != nil {
		t.Fatal(err)
	}
	if in := look(t); !slices.Equal(in.MultipathTCP, []string{want.String()}) {
		t.Errorf("found %v, want %v", in.MultipathTCP, want)
	}
}

func TestUnsupportedSockets(t *testing.T) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	keep(t, fd, err)
	if in := look(t); !slices.Contains(in.UnsupportedSockets, "AF_VSOCK") {
		t.Errorf("found %v", in.UnsupportedSockets)
	}
}

func TestConnectionsOnLoopbackDoNotCount(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if in := look(t); in.EstablishedTCP != 0 {
		t.Errorf("%d connections", in.EstablishedTCP)
	}
}

func TestDevices(t *testing.T) {
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/urandom"} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if in := look(t); len(in.Devices) != 0 {
		t.Errorf("harmless devices found: %v", in.Devices)
	}
	odd := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mknod(odd, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Skip(err)
	}
	f, err := os.OpenFile(odd, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if in := look(t); !slices.Equal(in.Devices, []string{odd}) {
		t.Errorf("found %v, want %v", in.Devices, odd)
	}
}

func TestIOUring(t *testing.T) {
	var params [120]byte // struct io_uring_params, all defaults
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		t.Skipf("not on this kernel: %v", errno)
	}
	defer unix.Close(int(fd))
	if !look(t).IOUring {
		t.Error("not found")
	}
}

func TestMessageQueue(t *testing.T) {
	name, err := unix.BytePtrFromString("godwit-inspect-test")
	if err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		t.Skipf("not on this kernel: %v", errno)
	}
	defer unix.Close(int(fd))
	defer func() {
		if _, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
			t.Error(errno)
		}
	}()
	if !look(t).MessageQueues {
		t.Error("not found")
	}
}

func TestParseStatus(t *testing.T) {
	for _, c := range []struct {
		status       string
		traced, huge bool
	}{
		{"Name:\tx\nTracerPid:\t0\nHugetlbPages:\t       0 kB\n", false, false},
		{"TracerPid:\t12\nHugetlbPages:\t       0 kB\n", true, false},
		{"TracerPid:\t0\nHugetlbPages:\t    2048 kB\n", false, true},
	} {
		if traced, huge := parseStatus(c.status); traced != c.traced || huge != c.huge {
			t.Errorf("%q: traced %t, huge %t", c.status, traced, huge)
		}
	}
}

func TestEntered(t *testing.T) {
	for _, c := range []struct {
		name    string
		parents map[int]int
		want    int
	}{
		{"only init", map[int]int{10: 1}, 0},
		{"a tree", map[int]int{10: 1, 11: 10, 12: 11}, 0},
		{"an exec with a child", map[int]int{10: 1, 11: 10, 20: 1, 21: 20}, 1},
		{"two execs", map[int]int{10: 1, 20: 5, 30: 5}, 2},
	} {
		if got := entered(c.parents, 10); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestMappedDevice(t *testing.T) {
	for name, want := range map[string]bool{
		"/dev/zero (deleted)": false, "/dev/shm/x": false, "/usr/lib/x": false, "": false, "[heap]": false,
		"/dev/nvidia0": true, "/dev/kfd": true,
	} {
		if got := mappedDevice(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

func TestHarmlessDevices(t *testing.T) {
	for _, d := range [][2]uint32{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, 0}} {
		if !harmless(d[0], d[1]) {
			t.Errorf("%d:%d is refused", d[0], d[1])
		}
	}
	for _, d := range [][2]uint32{{1, 1}, {1, 11}, {10, 229}, {10, 200}, {195, 0}, {5, 1}} {
		if harmless(d[0], d[1]) {
			t.Errorf("%d:%d is called harmless", d[0], d[1])
		}
	}
}

// A socket that listens on the pod's own address has nothing to listen on at the
// target. One that has just lost its connection, or is making it, only looks so.
func TestUnconnectedTCP(t *testing.T) {
	const closed = 7
	for _, tc := range []struct {
		state       int
		local       string
		bound       []string
		established int
	}{
		{tcpListen, "10.200.1.48:80", []string{"10.200.1.48:80"}, 0},
		{tcpListen, "0.0.0.0:80", nil, 0},
		{tcpListen, "127.0.0.1:80", nil, 0},
		{closed, "10.200.1.48:35540", nil, 0},
		{closed, "0.0.0.0:0", nil, 0},
		{tcpSynSent, "10.200.1.48:35540", nil, 1},
		{tcpSynSent, "127.0.0.1:35540", nil, 0},
	} {
		g := gatherer{in: &runtime.Inspection{}}
		g.unconnectedTCP(tc.state, netip.MustParseAddrPort(tc.local))
		if !slices.Equal(g.in.BoundAddresses, tc.bound) || g.in.EstablishedTCP != tc.established {
			t.Errorf("state %d at %s: %+v", tc.state, tc.local, g.in)
		}
	}
}

// kubelet puts the files of a ConfigMap into a directory with a time in its name.
func TestFilesOfAVersionOfAVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "..2026_01_02_03_04_05.678901")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "key")
	if err := os.WriteFile(name, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	if in := look(t); len(in.VolumeFiles) != 0 {
		t.Errorf("found %v when none was open", in.VolumeFiles)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if in := look(t); !slices.Contains(in.VolumeFiles, name) {
		t.Errorf("found %v, want the open file", in.VolumeFiles)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if in := look(t); !slices.Contains(in.VolumeFiles, name) {
		t.Errorf("found %v, want the mapped file", in.VolumeFiles)
	}
	for _, other := range []string{"/conf/..data/key", "/data/..2026/x", "/a/2026_01_02_03_04_05.6/x", "/a/..2026_01_02_03_04_05.6x/y"} {
		if version.MatchString(other) {
			t.Errorf("%s is taken for a version", other)
		}
	}
}
