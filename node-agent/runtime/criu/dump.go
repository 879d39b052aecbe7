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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/wire"
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

// Dump writes the final images with `runc checkpoint`. From the freeze on it ends
// when CRIU has, or at the deadline, whatever happens to ctx.
func (r *Runtime) Dump(ctx context.Context, c runtime.Container, o runtime.DumpOptions) (runtime.DumpStats, error) {
	s := runtime.DumpStats{Start: time.Now()}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	flags, err := r.runcFlags()
	if err != nil {
		return s, fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	}
	if freeze := o.Freeze; freeze != nil && !r.has(r.o.ActionScript) {
		// Nobody has installed it on this node: runc's start is part of the freeze.
		o.Freeze = nil
		if o.Deadline, err = freeze(ctx, notBegun{&o}); err != nil {
			return s, err
		}
	}
	var wait *wire.Gate
	if o.Freeze != nil {
		if wait, err = wire.NewGate(); err != nil {
			return s, err
		}
		defer wait.Close()
	} else if err := r.requireFrozen(ctx, c); err != nil {
		return s, err
	}
	// Every step that touches the volume can hang with it and cannot be
	// cancelled: they are all left to a goroutine of their own, which ends when
	// the volume is back and whose outcome then interests nobody.
	a := &attempt{ended: make(chan struct{}), parent: o.Parent}
	go func() {
		defer close(a.ended)
		a.stats, a.err = r.runDump(ctx, c, o, flags, a, wait)
	}()
	if wait != nil {
		if o.Deadline, err = r.freezeWhenReady(ctx, c, o, a, wait); err != nil {
			return s, err
		}
		// The time from which on the container stands still is what counts.
		s.Start = time.Now()
	}
	if !a.await(o.Deadline) {
		r.setSplice(c.ID, true)
		err := fmt.Errorf("dump of %s: %w: %w", c.ID, runtime.ErrChainBroken, runtime.ErrGivenUp)
		if a.abandon() {
			err = errors.Join(err, r.giveUp(context.WithoutCancel(ctx), c))
		}
		s.Duration = time.Since(s.Start)
		return s, err
	}
	if !a.began {
		return s, a.err
	}
	a.stats.Start, a.stats.Duration = s.Start, time.Since(s.Start)
	// The caller may have given up meanwhile; the container's state is not negotiable.
	err = errors.Join(a.err, r.keepFrozen(context.WithoutCancel(ctx), c))
	r.setSplice(c.ID, err != nil)
	return a.stats, err
}

// freezeWhenReady lets the caller freeze the container when CRIU stands ready, and
// then lets CRIU go on. After an error nothing of the dump is left, or will be as
// soon as the volume answers.
func (r *Runtime) freezeWhenReady(ctx context.Context, c runtime.Container, o runtime.DumpOptions, a *attempt, wait *wire.Gate) (time.Time, error) {
	deadline, err := func() (time.Time, error) {
		if err := wait.Await(ctx, a.ended); err != nil {
			return time.Time{}, err
		}
		deadline, err := o.Freeze(ctx, standing{r.o.Host, o, a})
		if err == nil {
			err = r.requireFrozen(ctx, c)
		}
		if err == nil {
			err = wait.Open()
		}
		return deadline, err
	}()
	if err == nil {
		return deadline, nil
	}
	if a.abandon() {
		// It holds no task yet: there is nothing to be careful with. What its goroutine
		// still does may wait for the volume.
		kerr := r.o.Cgroup.KillAll(context.WithoutCancel(ctx), r.o.Host.GroupDir(group(c)))
		if kerr == nil {
			kerr = r.o.Host.RemoveGroup(group(c))
		}
		err = errors.Join(err, kerr)
	}
	if errors.Is(err, wire.ErrEnded) {
		err = a.err
	}
	return time.Time{}, err
}

// parentLink is where CRIU keeps the way to a dump's parent (criu/image.c). It makes
// the link when it is started, and follows it when it dumps memory.
const parentLink = "parent"

// standing is a dump that CRIU has been started for.
type standing struct {
	host    *host.Host
	options runtime.DumpOptions
	attempt *attempt
}

func (s standing) Rebase(parent string) error {
	if s.options.Parent == "" {
		return errNoParent
	}
	d, err := s.host.Open(s.options.ImageDir, unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	link := filepath.Join(host.FDPath(d), parentLink)
	if err := os.Remove(link); err != nil {
		return err
	}
	if err := os.Symlink(parent, link); err != nil {
		return noSpace(err)
	}
	s.attempt.mu.Lock()
	defer s.attempt.mu.Unlock()
	s.attempt.parent = parent
	return nil
}

// notBegun is a dump for which nothing was started yet.
type notBegun struct{ options *runtime.DumpOptions }

func (n notBegun) Rebase(parent string) error {
	if n.options.Parent == "" {
		return errNoParent
	}
	n.options.Parent = parent
	return nil
}

var errNoParent = errors.New("a dump without a parent was started, and gets none")

// has says whether the node has a file.
func (r *Runtime) has(name string) bool {
	f, err := r.o.Host.Open(name, unix.O_PATH, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// attempt is a dump under way. began and abandoned exclude each other's
// consequences: a dump that is abandoned before it has begun never begins.
type attempt struct {
	ended chan struct{}
	// stats and err are valid once ended is closed.
	stats runtime.DumpStats
	err   error

	mu               sync.Mutex
	began, abandoned bool
	// parent that the dump builds on.
	parent string
}

// await returns false when the deadline comes before the end.
func (a *attempt) await(deadline time.Time) bool {
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-a.ended:
		return true
	case <-late:
		return false
	}
}

// begin starts the command, unless the attempt was abandoned.
func (a *attempt) begin(start func() (*host.Process, error)) (*host.Process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.abandoned {
		return nil, runtime.ErrGivenUp
	}
	p, err := start()
	a.began = err == nil
	return p, err
}

// abandon says whether the command was started.
func (a *attempt) abandon() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.abandoned = true
	return a.began
}

// runDump does the work of Dump up to the check of what was written.
func (r *Runtime) runDump(ctx context.Context, c runtime.Container, o runtime.DumpOptions, flags map[string]bool, a *attempt, wait *wire.Gate) (runtime.DumpStats, error) {
	var s runtime.DumpStats
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
	watched, err := r.watched(ctx, c)
	if err != nil {
		return s, err
	}
	conf := filepath.Join(work, configName)
	if err := os.WriteFile(conf, []byte(r.dumpConfig(o, watched)), 0o600); err != nil {
		return s, noSpace(err)
	}
	env := []string{"CRIU_CONFIG_FILE=" + path.Join(o.WorkDir, configName)}
	if wait != nil {
		ready, goOn := wait.Paths()
		env = append(env, wire.EnvDumpReady+"="+ready, wire.EnvDumpGo+"="+goOn)
	}
	standIn := ""
	if r.has(r.o.StandIn) {
		standIn = r.o.StandIn
		env = append(env, wire.EnvDumpOnly+"=1")
	}
	if err := ctx.Err(); err != nil {
		return s, err // the last chance to give up with nothing touched
	}
	p, err := a.begin(func() (*host.Process, error) {
		return r.o.Host.Start(host.Command{
			Args:  r.dumpArgs(c, o, flags),
			Env:   env,
			Path:  standIn,
			Group: group(c),
		})
	})
	if err != nil {
		return s, err
	}
	_, err = p.Wait()
	if err == nil {
		a.mu.Lock()
		o.Parent = a.parent
		a.mu.Unlock()
		err = collect(d, o, final, &s)
	}
	// What CRIU counts as frozen is part of a pause that was there before.
	s.Frozen = 0
	if err != nil {
		return s, r.failed(ctx, "dump", c, err, d, dumpLog)
	}
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
func (r *Runtime) dumpConfig(o runtime.DumpOptions, watched []string) string {
	var b strings.Builder
	// The pod is cut off by our own rules, which outlast the dump; CRIU's lock
	// is lifted at the end of the dump and is made again by each restore for the
	// whole namespace, containers that run already included.
	b.WriteString("network-lock skip\n")
	fmt.Fprintf(&b, "ghost-limit %d\n", r.o.GhostLimit)
	fmt.Fprintf(&b, "timeout %d\n", int(r.o.SeizeTimeout/time.Second))
	if o.Freeze != nil {
		fmt.Fprintf(&b, "action-script %s\n", r.o.ActionScript)
	}
	if o.Track && o.Parent == "" {
		// runc asks for tracking only when there is a parent.
		b.WriteString("track-mem\n")
	}
	if len(watched) > 0 {
		b.WriteString("force-irmap\n")
	}
	for _, name := range watched {
		fmt.Fprintf(&b, "irmap-scan-path %s\n", name)
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
