// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

func TestDumpArgs(t *testing.T) {
	r := New(Options{})
	c := runtime.Container{ID: "abc"}
	base := []string{
		"runc", "--root", "/run/containerd/runc/k8s.io", "checkpoint",
		"--image-path", "/vol/m/final", "--work-path", "/run/w",
		"--leave-running", "--file-locks", "--tcp-established",
	}
	o := runtime.DumpOptions{ImageDir: "/vol/m/final", WorkDir: "/run/w"}
	chained := o
	chained.Parent = "../round-002"
	for _, k := range []struct {
		name  string
		o     runtime.DumpOptions
		flags map[string]bool
		want  []string
	}{
		{"full, old runc", o, nil, append(slices.Clone(base), "abc")},
		{"chained", chained, nil, append(slices.Clone(base), "--parent-path", "../round-002", "abc")},
		{"recent runc", chained, map[string]bool{"tcp-skip-in-flight": true, "link-remap": true},
			append(slices.Clone(base), "--parent-path", "../round-002", "--tcp-skip-in-flight", "abc")},
	} {
		if got := r.dumpArgs(c, k.o, k.flags); !slices.Equal(got, k.want) {
			t.Errorf("%s:\n got %q\nwant %q", k.name, got, k.want)
		}
	}
}

func TestDumpConfig(t *testing.T) {
	r := New(Options{GhostLimit: 1 << 20})
	const base = "network-lock skip\nghost-limit 1048576\ntimeout 10\n"
	for _, k := range []struct {
		o       runtime.DumpOptions
		watched []string
		want    string
	}{
		{runtime.DumpOptions{}, nil, base},
		{runtime.DumpOptions{Track: true}, nil, base + "track-mem\n"},
		{runtime.DumpOptions{Track: true, Parent: "../a"}, nil, base},
		{runtime.DumpOptions{Parent: "../a"}, nil, base},
		{runtime.DumpOptions{}, []string{"/data/a", "/b"}, base + "force-irmap\nirmap-scan-path /data/a\nirmap-scan-path /b\n"},
	} {
		if got := r.dumpConfig(k.o, k.watched); got != k.want {
			t.Errorf("%+v: %q, want %q", k.o, got, k.want)
		}
	}
}

func TestPredumpOptions(t *testing.T) {
	r := New(Options{})
	c := runtime.Container{ID: "abc", PID: 77}
	d := dirs{images: os.Stdin, work: os.Stdout}
	o := r.predumpOptions(c, runtime.DumpOptions{}, d)
	if o.GetPid() != 77 || !o.GetTrackMem() || o.ParentImg != nil || o.FreezeCgroup != nil ||
		o.GetPreDumpMode() != rpc.CriuPreDumpMode_VM_READ || o.GetImagesDirFd() != int32(os.Stdin.Fd()) || o.GetWorkDirFd() != int32(os.Stdout.Fd()) {
		t.Errorf("got %v", o)
	}
	r.setSplice("abc", true)
	o = r.predumpOptions(c, runtime.DumpOptions{Parent: "../round-001"}, d)
	if o.GetParentImg() != "../round-001" || o.GetPreDumpMode() != rpc.CriuPreDumpMode_SPLICE {
		t.Errorf("got %v", o)
	}
	r.setSplice("abc", false)
	if r.useSplice("abc") {
		t.Error("mode SPLICE stays")
	}
}

func TestRuncFlags(t *testing.T) {
	help := "USAGE:\n   runc checkpoint [command options] <container-id>\n\nOPTIONS:\n" +
		"   --image-path value             path for saving criu image files\n   --tcp-skip-in-flight           skip\n"
	flags := parseFlags(help)
	if !flags["tcp-skip-in-flight"] || !flags["image-path"] || len(flags) != 2 {
		t.Errorf("got %v", flags)
	}
}

func TestCgroupDir(t *testing.T) {
	for in, want := range map[string]string{
		"/kubepods/burstable/podx/abc": "/sys/fs/cgroup/kubepods/burstable/podx/abc",
		"kubepods-burstable-podx_y.slice:cri-containerd:abc": "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/" +
			"kubepods-burstable-podx_y.slice/cri-containerd-abc.scope",
		"system.slice:runc:abc": "/sys/fs/cgroup/system.slice/runc-abc.scope",
		":runc:abc":             "/sys/fs/cgroup/system.slice/runc-abc.scope",
		"-.slice:runc:abc":      "/sys/fs/cgroup/runc-abc.scope",
		"/../../etc":            "/sys/fs/cgroup/etc",
	} {
		if got, err := cgroupDir(in); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a", "a:b", "a:b:c", "a.slice:b:", "a--b.slice:b:c", "a.slice:../b:c", "a.slice:b:c:d"} {
		if got, err := cgroupDir(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestContainerID(t *testing.T) {
	for id, want := range map[string]bool{
		"abc": true, strings.Repeat("0a", 32): true, "a-b_c.d": true,
		"": false, ".": false, "..": false, "../x": false, "a/b": false, "-x": false, "a..b": false, "--force": false, "a\nb": false,
	} {
		if got := containerID.MatchString(id); got != want {
			t.Errorf("%q: %t", id, got)
		}
	}
}

func TestCheckParent(t *testing.T) {
	h, err := host.New(host.Options{InitPID: os.Getpid(), CgroupName: "godwit-test"})
	if err != nil {
		t.Skipf("no node to work on: %v", err)
	}
	defer h.Close()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "good"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "good/inventory.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for parent, ok := range map[string]bool{
		"": true, "../good": true, "../empty": false, "../none": false, "good": false, "..": false, "../": false, "../..": false,
		"../../x": false, filepath.Join(dir, "good"): false, "../good/..": false, "../../" + filepath.Base(dir) + "/good": false,
	} {
		err := checkParent(h, runtime.DumpOptions{ImageDir: filepath.Join(dir, "new"), WorkDir: "/w", Parent: parent})
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrImageDir) {
			t.Errorf("%q: %v", parent, err)
		}
	}
	if err := checkParent(h, runtime.DumpOptions{ImageDir: "relative", WorkDir: "/w"}); !errors.Is(err, ErrImageDir) {
		t.Errorf("got %v", err)
	}
}

func TestFailures(t *testing.T) {
	r := New(Options{})
	c := runtime.Container{ID: "abc"}
	work := t.TempDir()
	dir, err := os.Open(work)
	if err != nil {
		t.Fatal(err)
	}
	d := dirs{images: dir, work: dir}
	defer dir.Close()
	log := "(00.1) fine\n(00.2) Error (criu/page-xfer.c:9): Unable to write: No space left on device\n(00.3) after\n"
	if err := os.WriteFile(filepath.Join(work, "x.log"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{errors.New("criu failed"), &host.ExitError{Args: []string{"runc", "checkpoint"}, Code: 1}} {
		err := r.failed(t.Context(), "dump", c, cause, d, "x.log")
		if !errors.Is(err, runtime.ErrChainBroken) || !errors.Is(err, runtime.ErrNoSpace) || !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(err.Error(), "page-xfer.c:9") || len(LogLines(err)) != 2 {
			t.Errorf("the log is lost: %v", err)
		}
	}
	if err := r.failed(t.Context(), "dump", c, errors.New("x"), d, "none.log"); errors.Is(err, runtime.ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	// What runc could not write itself stands in its own words only.
	for _, said := range []string{"write descriptors.json: no space left on device", "mkdir: disk quota exceeded"} {
		cause := &host.ExitError{Args: []string{"runc", "checkpoint"}, Code: 1, Stderr: said}
		if err := r.failed(t.Context(), "dump", c, cause, d, "none.log"); !errors.Is(err, runtime.ErrNoSpace) {
			t.Errorf("%s: got %v", said, err)
		}
	}
}

func TestSafePointsForAKill(t *testing.T) {
	text := func(n int) string { return strconv.Itoa(n) + " 0x5 0x7ffc 0x1000 0x0 0x0 0x0 0x7ffd 0x7f00\n" }
	for text, want := range map[string]call{
		text(unix.SYS_WRITE): inFileCall, text(unix.SYS_OPENAT): inFileCall, text(unix.SYS_SPLICE): inFileCall,
		text(unix.SYS_WAIT4): elsewhere, text(unix.SYS_PTRACE): elsewhere, text(unix.SYS_RECVFROM): elsewhere, text(unix.SYS_SENDTO): elsewhere,
		"running\n": running, "-1 0x7ffd 0x7f00\n": elsewhere, "": elsewhere,
	} {
		if got := parseCall(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// A command is stopped while it waits for a file, and nowhere else.
func TestStopAtASafePoint(t *testing.T) {
	h, err := host.New(host.Options{InitPID: os.Getpid(), CgroupName: "godwit-test"})
	if err != nil {
		t.Skipf("no node to work on: %v", err)
	}
	defer h.Close()
	r := New(Options{Host: h})
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	runc := filepath.Join(dir, "runc")
	if err := os.Symlink(cat, runc); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		args []string
		want bool
	}{
		"waits for a file":         {[]string{cat, fifo}, true},
		"waits for something else": {[]string{"sleep", "600"}, false},
		"is runc":                  {[]string{runc, fifo}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := runtime.Container{ID: "safe-point-" + strconv.Itoa(os.Getpid())}
			name := group(c)
			dir := h.GroupDir(name)
			p, err := h.Start(host.Command{Args: k.args, Group: name})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				p.Kill()
				if err := r.o.Cgroup.KillAll(context.Background(), dir); err != nil {
					t.Error(err)
				}
				_, _ = p.Wait() // it was killed
				if err := h.RemoveGroup(name); err != nil {
					t.Error(err)
				}
			}()
			limit := time.Minute
			if !k.want {
				limit = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if got := r.stopAtSafePoint(ctx, dir); got != k.want {
				t.Errorf("stopped: %t, want %t", got, k.want)
			}
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
			if err != nil {
				t.Fatal(err)
			}
			if frozen := strings.TrimSpace(string(b)) == "1"; frozen != k.want {
				t.Errorf("frozen: %t, want %t", frozen, k.want)
			}
			if !k.want {
				return
			}
			// The agent has died before the kill: what it left goes on, and ends.
			go func() {
				// It opens when the command does, which ends when there is no more to read.
				if w, err := os.OpenFile(fifo, os.O_WRONLY, 0); err == nil {
					_ = w.Close()
				}
			}()
			if err := r.Settle(t.Context(), c, time.Now().Add(20*time.Second)); err != nil {
				t.Errorf("Settle: %v", err)
			}
		})
	}
}

func TestAnAbandonedAttemptNeverBegins(t *testing.T) {
	a := &attempt{ended: make(chan struct{})}
	if a.await(time.Now().Add(time.Millisecond)) {
		t.Error("an attempt that has not ended has ended")
	}
	if a.abandon() {
		t.Error("an attempt that has not begun has begun")
	}
	_, err := a.begin(func() (*host.Process, error) { t.Error("begun"); return nil, nil })
	if !errors.Is(err, runtime.ErrGivenUp) {
		t.Errorf("got %v", err)
	}
}

func TestProbeParsers(t *testing.T) {
	for _, k := range []struct{ form, text, want string }{
		{"criu", "Version: 4.1.1\n", "4.1.1"},
		{"runc", "runc version 1.5.2\ncommit: x\n", "1.5.2"},
		{"containerd", "containerd github.com/containerd/containerd/v2 v2.4.2 abcdef\n", "2.4.2"},
		{"containerd", "containerd containerd.io 1.7.27 05044ec\n", "1.7.27"},
	} {
		form := map[string]interface{ FindStringSubmatch(string) []string }{
			"criu": criuVersion, "runc": runcVersion, "containerd": containerdVersion,
		}[k.form]
		if m := form.FindStringSubmatch(k.text); m == nil || m[1] != k.want {
			t.Errorf("%q: %v", k.text, m)
		}
	}
	x86 := "processor\t: 0\nflags\t\t: fpu xsave avx avx\nbugs\t\t: x\n\nprocessor\t: 1\nflags\t\t: other\n"
	if got := cpuFeatures([]byte(x86)); !slices.Equal(got, []string{"avx", "fpu", "xsave"}) {
		t.Errorf("got %v", got)
	}
	if got := cpuFeatures([]byte("Features\t: asimd fp\n")); !slices.Equal(got, []string{"asimd", "fp"}) {
		t.Errorf("got %v", got)
	}
	err := &host.ExitError{Args: []string{"criu", "check"}, Code: 1, Stderr: "Warn  (x): maybe\nError (criu/cr-check.c:1): no\n"}
	if got := checkError(err); got != "Error (criu/cr-check.c:1): no" {
		t.Errorf("got %q", got)
	}
}

func TestXSaveSize(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	features := cpuFeatures(info)
	size := xsaveSize(features)
	// 512 bytes of the legacy area and the 64 of the header are always there.
	if slices.Contains(features, "xsave") != (size >= 576) || size > 64<<10 {
		t.Errorf("size %d", size)
	}
	if xsaveSize([]string{"fpu"}) != 0 {
		t.Error("a size without XSAVE")
	}
}
