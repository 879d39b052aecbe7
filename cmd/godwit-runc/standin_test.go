// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"godwit.dev/godwit/internal/wire"
)

// restoreRequest is what runc sends, as far as it matters.
func restoreRequest(kind uint64, pipes map[int]string) []byte {
	var opts []byte
	opts = protowire.AppendTag(opts, 1, protowire.VarintType)
	opts = protowire.AppendVarint(opts, 5)
	opts = protowire.AppendTag(opts, 30, protowire.Fixed32Type) // of a kind that does not matter
	opts = protowire.AppendFixed32(opts, 7)
	add := func(key string, fd int) {
		var inherit []byte
		inherit = protowire.AppendTag(inherit, fieldInheritKey, protowire.BytesType)
		inherit = protowire.AppendString(inherit, key)
		inherit = protowire.AppendTag(inherit, fieldInherits, protowire.VarintType)
		inherit = protowire.AppendVarint(inherit, uint64(fd))
		opts = protowire.AppendTag(opts, fieldInheritFD, protowire.BytesType)
		opts = protowire.AppendBytes(opts, inherit)
	}
	add("extRootNetNS", 4)
	for fd := range 3 {
		if key := pipes[fd]; key != "" {
			add(key, fd)
		}
	}
	var b []byte
	b = protowire.AppendTag(b, fieldType, protowire.VarintType)
	b = protowire.AppendVarint(b, kind)
	b = protowire.AppendTag(b, fieldOpts, protowire.BytesType)
	return protowire.AppendBytes(b, opts)
}

// standInRig runs the stand-in as runc would.
type standInRig struct {
	dir    string
	runc   *os.File // runc's end of the socket
	gate   *wire.Gate
	ended  chan struct{}
	result error // valid once ended
}

func startStandIn(t *testing.T, args ...string) *standInRig {
	t.Helper()
	return startStandInWith(t, nil, args...)
}

func startStandInWith(t *testing.T, env []string, args ...string) *standInRig {
	t.Helper()
	r := &standInRig{dir: t.TempDir(), ended: make(chan struct{})}
	for _, d := range []string{"stand-in", "bin", "images"} {
		must(t, os.Mkdir(filepath.Join(r.dir, d), 0o700))
	}
	self, err := os.Executable()
	must(t, err)
	standIn := filepath.Join(r.dir, "stand-in", criuName)
	must(t, os.Symlink(self, standIn))
	script := "#!/bin/sh\necho \"$* in $PATH, $(env | grep -c GODWIT_STANDIN_)\" > \"$DIR/called\"\n[ $# = 1 ] || cat <&4 > \"$DIR/request\"\n"
	must(t, os.WriteFile(filepath.Join(r.dir, "bin", criuName), []byte(script), 0o700))
	must(t, os.WriteFile(filepath.Join(r.dir, "images", descriptorsName), []byte(`["/dev/null","pipe:[11]","pipe:[12]"]`), 0o600))

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	r.runc = os.NewFile(uintptr(fds[0]), "runc")
	server := os.NewFile(uintptr(fds[1]), "criu")
	defer server.Close()
	r.gate, err = wire.NewGate()
	must(t, err)
	ready, goOn := r.gate.Paths()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	cmd := exec.CommandContext(ctx, standIn, args...)
	cmd.Args[0] = criuName
	cmd.ExtraFiles = []*os.File{server, server} // 3 and 4
	cmd.Env = append(env,
		"GODWIT_TEST_ROLE=wrapper", "DIR="+r.dir, envStandReady+"="+ready, envStandGo+"="+goOn,
		envStandImages+"="+r.dir+"/images", envStandLog+"="+r.dir+"/restore.log",
		"PATH="+r.dir+"/stand-in:"+r.dir+"/bin:"+os.Getenv("PATH"),
	)
	must(t, cmd.Start())
	go func() {
		r.result = cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = r.runc.Close()
		r.gate.Close()
		<-r.ended
		cancel()
	})
	return r
}

func (r *standInRig) called() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "called"))
	return string(b)
}

// becomesCRIU waits until CRIU has been called, and has got the request.
func (r *standInRig) becomesCRIU(t *testing.T, is func(request []byte) bool) {
	t.Helper()
	waitFor(t, func() bool { return r.called() != "" })
	if c := r.called(); !strings.HasPrefix(c, "swrk 4 in "+r.dir+"/bin:") || !strings.HasSuffix(c, ", 0\n") {
		t.Errorf("CRIU was called with %s", c)
	}
	must(t, r.runc.Close())
	<-r.ended
	got, err := os.ReadFile(filepath.Join(r.dir, "request"))
	if err != nil || !is(got) || r.result != nil {
		t.Errorf("CRIU got %q, %v, ended with %v", got, err, r.result)
	}
}

func exactly(request []byte) func([]byte) bool {
	return func(got []byte) bool { return bytes.Equal(got, request) }
}

// refuses waits for the stand-in's end, and for its reason.
func (r *standInRig) refuses(t *testing.T, reason string) {
	t.Helper()
	<-r.ended
	log, err := os.ReadFile(filepath.Join(r.dir, "restore.log"))
	if r.result == nil || err != nil || !strings.Contains(string(log), "Error (godwit): ") || !strings.Contains(string(log), reason) || r.called() != "" {
		t.Errorf("ended with %v, says %q, %v, called %q", r.result, log, err, r.called())
	}
}

func TestStandInHoldsARestore(t *testing.T) {
	request := restoreRequest(kindRestore, map[int]string{1: "pipe:[11]", 2: "pipe:[12]"})
	ready := func(t *testing.T) *standInRig {
		r := startStandIn(t, "swrk", "4")
		_, err := r.runc.Write(request)
		must(t, err)
		must(t, r.gate.Await(t.Context(), r.ended))
		if r.called() != "" {
			t.Error("CRIU was called")
		}
		return r
	}
	t.Run("until it may go on", func(t *testing.T) {
		r := ready(t)
		must(t, r.gate.Open())
		quiet, err := withLogLevel(request, logLevel)
		must(t, err)
		r.becomesCRIU(t, exactly(quiet))
	})
	t.Run("until the wrapper is gone", func(t *testing.T) {
		r := ready(t)
		r.gate.Close()
		r.refuses(t, "ended before it was ready")
	})
	t.Run("until runc is gone", func(t *testing.T) {
		r := ready(t)
		must(t, r.runc.Close())
		r.refuses(t, "runc has ended")
	})
	t.Run("that was made of other descriptors", func(t *testing.T) {
		r := ready(t)
		must(t, os.WriteFile(filepath.Join(r.dir, "images", descriptorsName), []byte(`["/dev/null","pipe:[11]","pipe:[11]"]`), 0o600))
		must(t, r.gate.Open())
		r.refuses(t, "descriptors.json has changed since")
	})
	t.Run("whose descriptors are gone", func(t *testing.T) {
		r := ready(t)
		must(t, os.Remove(filepath.Join(r.dir, "images", descriptorsName)))
		must(t, r.gate.Open())
		r.refuses(t, "descriptors.json: no such file")
	})
}

func TestStandInHoldsNothingElse(t *testing.T) {
	for name, kind := range map[string]uint64{"version": kindVersion, "feature check": kindFeatureCheck} {
		t.Run(name, func(t *testing.T) {
			r := startStandIn(t, "swrk", "4")
			request := restoreRequest(kind, nil)
			_, err := r.runc.Write(request)
			must(t, err)
			r.becomesCRIU(t, exactly(request))
		})
	}
	t.Run("command", func(t *testing.T) {
		r := startStandIn(t, "--version")
		<-r.ended
		if !strings.HasPrefix(r.called(), "--version in ") || r.result != nil {
			t.Errorf("called %q, %v", r.called(), r.result)
		}
	})
}

func TestStandInRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, request := range map[string][]byte{"garbage": {0xff, 0xff, 0xff}, "cut off": restoreRequest(kindRestore, nil)[:6]} {
		t.Run(name, func(t *testing.T) {
			r := startStandIn(t, "swrk", "4")
			_, err := r.runc.Write(request)
			must(t, err)
			r.refuses(t, "runc's request")
		})
	}
	t.Run("no socket", func(t *testing.T) {
		startStandIn(t, "swrk", "none").refuses(t, "invalid syntax")
	})
	t.Run("nothing", func(t *testing.T) {
		r := startStandIn(t, "swrk", "4")
		must(t, r.runc.Close())
		r.refuses(t, "runc has ended")
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(restoreRequest(kindRestore, map[int]string{1: "pipe:[1]"}))
	f.Add(restoreRequest(kindVersion, nil))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil && r.harmless() && r.kind != kindVersion && r.kind != kindFeatureCheck {
			t.Errorf("%+v", r)
		}
	})
}
