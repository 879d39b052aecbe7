// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

const (
	dumpLog    = "dump.log"
	configName = "criu.conf"
)

// ErrNotFrozen means that Dump was called for a container that runs. It is a
// mistake of the caller; nothing was touched.
var ErrNotFrozen = errors.New("the container is not frozen")

// Dump writes the final images with `runc checkpoint`. It does not end before
// CRIU has, whatever happens to ctx.
func (r *Runtime) Dump(ctx context.Context, c runtime.Container, o runtime.DumpOptions) (runtime.DumpStats, error) {
	s := runtime.DumpStats{Start: time.Now()}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	if err := r.requireFrozen(ctx, c); err != nil {
		return s, err
	}
	flags, err := r.runcFlags()
	if err != nil {
		return s, fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	}
	d, err := openDirs(r.o.Host, o)
	if err != nil {
		return s, err
	}
	defer d.Close()
	work := host.FDPath(d.work)
	for _, name := range []string{dumpLog, "stats-dump"} {
		if err := os.RemoveAll(filepath.Join(work, name)); err != nil {
			return s, err
		}
	}
	conf := filepath.Join(work, configName)
	if err := os.WriteFile(conf, []byte(r.dumpConfig(o)), 0o600); err != nil {
		return s, noSpace(err)
	}
	if err := ctx.Err(); err != nil {
		return s, err // the last chance to give up with nothing touched
	}
	_, err = r.o.Host.Run(context.WithoutCancel(ctx), host.Command{
		Args: r.dumpArgs(c, o, flags),
		Env:  []string{"CRIU_CONFIG_FILE=" + path.Join(o.WorkDir, configName)},
	})
	if err == nil {
		err = collect(d, o, final, &s)
	}
	// What CRIU counts as frozen is part of a pause that was there before.
	s.Frozen = 0
	s.Duration = time.Since(s.Start)
	// The caller may have given up meanwhile; the container's state is not negotiable.
	err = errors.Join(err, r.keepFrozen(context.WithoutCancel(ctx), c))
	if err != nil {
		r.setSplice(c.ID, true)
		return s, r.failed(ctx, "dump", c, err, d.work, dumpLog)
	}
	r.setSplice(c.ID, false)
	return s, nil
}

func (r *Runtime) requireFrozen(ctx context.Context, c runtime.Container) error {
	frozen, err := r.o.Cgroup.Frozen(ctx, c)
	if err != nil {
		return err
	}
	if !frozen {
		return fmt.Errorf("dump of %s: %w", c.ID, ErrNotFrozen)
	}
	return nil
}

// keepFrozen makes sure that the container is frozen after a dump. CRIU lifts
// the freezer to seize the tasks and sets it again before it lets them go, so a
// freezer that is off now means that the container has run since the dump (CRIU
// was killed): the images are worthless, but the container shall be as the
// caller left it.
func (r *Runtime) keepFrozen(ctx context.Context, c runtime.Container) error {
	asked, err := r.o.Cgroup.FreezeAsked(c)
	if err != nil {
		return err
	}
	if !asked {
		err = errors.New("the container ran after the dump")
	}
	// The tasks that CRIU has let go may still be on their way to stop.
	return errors.Join(err, r.o.Cgroup.Freeze(ctx, c))
}

// dumpArgs is the command of the final dump.
//
// --leave-running leaves the tasks as they are found, which is frozen; without
// it runc destroys the container and kubelet starts a fresh one. --link-remap is
// left out on purpose: CRIU removes the links it made when the dump ends, so the
// copy of the file system that follows would miss them and the restore would
// fail; without it the dump fails with a clear message.
func (r *Runtime) dumpArgs(c runtime.Container, o runtime.DumpOptions, flags map[string]bool) []string {
	args := []string{
		r.o.Runc, "--root", r.o.RuncRoot, "checkpoint",
		"--image-path", o.ImageDir,
		"--work-path", o.WorkDir,
		"--leave-running", "--file-locks", "--tcp-established",
	}
	if o.Parent != "" {
		args = append(args, "--parent-path", o.Parent)
	}
	// Connections that nobody has accepted yet cannot be dumped; their clients
	// connect again. Older versions of runc lack the flag.
	if flags["tcp-skip-in-flight"] {
		args = append(args, "--tcp-skip-in-flight")
	}
	return append(args, c.ID)
}

// dumpConfig is the CRIU configuration for what runc has no flags for. CRIU
// reads the file named by CRIU_CONFIG_FILE before it takes runc's options; the
// administrator's /etc/criu/runc.conf, read after them, has the last word.
func (r *Runtime) dumpConfig(o runtime.DumpOptions) string {
	var b strings.Builder
	// The pod is cut off by our own rules, which outlast the dump; CRIU's lock
	// is lifted at the end of the dump and is made again by each restore for the
	// whole namespace, containers that run already included.
	b.WriteString("network-lock skip\n")
	fmt.Fprintf(&b, "ghost-limit %d\n", r.o.GhostLimit)
	fmt.Fprintf(&b, "timeout %d\n", int(r.o.SeizeTimeout/time.Second))
	if o.Track && o.Parent == "" {
		// runc asks for tracking only when there is a parent.
		b.WriteString("track-mem\n")
	}
	return b.String()
}

var flagName = regexp.MustCompile(`(?m)^\s+--([a-z][a-z-]*)`)

// readRuncFlags asks runc for the flags of its checkpoint command.
func (r *Runtime) readRuncFlags() (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := r.o.Host.Run(ctx, host.Command{Args: []string{r.o.Runc, "checkpoint", "--help"}})
	if err != nil {
		return nil, err
	}
	return parseFlags(string(out)), nil
}

func parseFlags(help string) map[string]bool {
	flags := map[string]bool{}
	for _, m := range flagName.FindAllStringSubmatch(help, -1) {
		flags[m[1]] = true
	}
	return flags
}
