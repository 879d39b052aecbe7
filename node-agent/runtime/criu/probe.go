// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/memory"
)

// Probe finds out what the node can do. A tool that is missing is not an
// error: its version stays empty.
func (r *Runtime) Probe(ctx context.Context) (runtime.Probe, error) {
	var p runtime.Probe
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return p, fmt.Errorf("uname: %w", err)
	}
	p.Kernel = unix.ByteSliceToString(uts.Release[:])
	p.CRIU = r.version(ctx, criuVersion, r.o.CRIU, "--version")
	p.Runc = r.version(ctx, runcVersion, r.o.Runc, "--version")
	p.Containerd = r.version(ctx, containerdVersion, "containerd", "--version")
	if p.CRIU != "" {
		if _, err := r.o.Host.Run(ctx, host.Command{Args: []string{r.o.CRIU, "check"}}); err != nil {
			p.CRIUCheck = checkError(err)
		}
	}
	if err := ctx.Err(); err != nil {
		return p, err // the answers above may be of commands cut short
	}
	p.DirtyTracking = memory.TestTracking() == nil
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return p, err
	}
	p.CPUFeatures = cpuFeatures(info)
	p.XSaveSize = xsaveSize(p.CPUFeatures)
	return p, nil
}

var (
	criuVersion       = regexp.MustCompile(`(?m)^Version: (\S+)`)
	runcVersion       = regexp.MustCompile(`(?m)^runc version (\S+)`)
	containerdVersion = regexp.MustCompile(`(?m)^containerd \S+ v?(\S+)`)
)

// version runs a command and picks its version out of what it says.
func (r *Runtime) version(ctx context.Context, form *regexp.Regexp, args ...string) string {
	out, err := r.o.Host.Run(ctx, host.Command{Args: args})
	if err != nil {
		return ""
	}
	m := form.FindSubmatch(out)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// checkError is what `criu check` said: the lines of errors, not the warnings.
func checkError(err error) string {
	exit, ok := errors.AsType[*host.ExitError](err)
	if !ok {
		return err.Error()
	}
	var said []string
	s := bufio.NewScanner(strings.NewReader(exit.Stderr + "\n" + exit.Stdout))
	for s.Scan() {
		if strings.Contains(s.Text(), "Error") {
			said = append(said, strings.TrimSpace(s.Text()))
		}
	}
	if len(said) == 0 {
		return exit.Error()
	}
	return strings.Join(said, "; ")
}

// cpuFeatures are the flags of the first processor (x86: "flags", arm64:
// "Features"), sorted.
func cpuFeatures(cpuinfo []byte) []string {
	s := bufio.NewScanner(bytes.NewReader(cpuinfo))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), ":")
		if key = strings.TrimSpace(key); ok && (key == "flags" || key == "Features") {
			flags := strings.Fields(value)
			slices.Sort(flags)
			return slices.Compact(flags)
		}
	}
	return nil
}

// xsaveSize is the size in bytes of the area in which the kernel saves the
// extended registers of a task, 0 where there is none. A task can be restored
// only where it is the same.
func xsaveSize(features []string) uint32 {
	if !slices.Contains(features, "xsave") {
		return 0
	}
	return enabledXSaveSize()
}
