// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// Killing CRIU in the middle of a dump is safe at some points only. It holds the
// tasks by ptrace, and its parasite runs in them:
//
//   - A task that is merely held goes on when its tracer dies.
//   - The parasite's daemon waits for commands on a socket. When that closes it
//     leaves by sigreturn with the task's own registers. Its mapping stays behind
//     in the task, of which nothing but memory is lost.
//   - While CRIU waits for a task to run a piece of injected code, the task's own
//     code or registers are replaced and the breakpoint at the end of the piece
//     would kill it; and a daemon that answers a command on a closed socket would
//     leave a SIGPIPE behind.
//
// CRIU is at a harmless point whenever it waits for a file: it writes images only
// while no injected code runs. A volume that does not answer is exactly that, so
// a kill is held back until one of the commands is seen in such a call. It may have
// gone on by the time it is killed, so it is frozen there first, and looked at again:
// a frozen task stands in the call, or at its end, and does nothing else until it dies.
const (
	// safePoint bounds the wait for a harmless point. CRIU that is at work passes
	// one with each image that it writes.
	safePoint = 2 * time.Second
	// safeLook is the time between two looks; nothing announces system calls.
	safeLook = 5 * time.Millisecond
	// untraced bounds the wait for the tasks to be let go by a dead tracer.
	untraced = 5 * time.Second
)

// group is the cgroup of all commands that dump a container.
func group(c runtime.Container) string { return "dump-" + c.ID }

// Settle waits for the dump of a container whoever started it.
func (r *Runtime) Settle(ctx context.Context, c runtime.Container, deadline time.Time) error {
	if !containerID.MatchString(c.ID) {
		return fmt.Errorf("%q is not a container id", c.ID)
	}
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	dir := r.o.Host.GroupDir(group(c))
	// An agent that died while it looked for a safe point has left the commands frozen:
	// they would not end, and reach no such point. An error means that there are none.
	_ = r.o.Cgroup.FreezeGroup(dir, false)
	err := r.o.Cgroup.AwaitEmpty(limited, dir)
	switch {
	case err == nil:
		return r.o.Host.RemoveGroup(group(c))
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the dump of %s: %w", c.ID, ctx.Err())
	case !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("wait for the dump of %s: %w", c.ID, err)
	}
	return errors.Join(fmt.Errorf("dump of %s: %w: %w", c.ID, runtime.ErrChainBroken, runtime.ErrGivenUp), r.giveUp(ctx, c))
}

// giveUp kills the commands that dump a container and returns when none of them
// is left and the tasks are held by nobody. On error something is left that the
// kernel does not end, but that will not run again either: it has been killed.
func (r *Runtime) giveUp(ctx context.Context, c runtime.Container) error {
	dir := r.o.Host.GroupDir(group(c))
	limited, cancel := context.WithTimeout(ctx, safePoint)
	r.stopAtSafePoint(limited, dir)
	cancel()
	if err := r.o.Cgroup.KillAll(ctx, dir); err != nil {
		return fmt.Errorf("give up the dump of %s: %w", c.ID, err)
	}
	limited, cancel = context.WithTimeout(ctx, untraced)
	defer cancel()
	if err := r.awaitUntraced(limited, c); err != nil {
		return fmt.Errorf("give up the dump of %s: %w", c.ID, err)
	}
	return r.o.Host.RemoveGroup(group(c))
}

// killWhenBlocked ends a pre-dump at the first moment at which it waits for a file.
func (r *Runtime) killWhenBlocked(p *host.Process, c runtime.Container) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		// The error is the business of PreDump, which waits as well.
		_, _ = p.Wait()
	}()
	dir := r.o.Host.GroupDir(group(c))
	if r.stopAtSafePoint(ctx, dir) {
		p.Kill()
		// Whoever is not meant goes on; an error means that nobody is left.
		_ = r.o.Cgroup.FreezeGroup(dir, false)
	}
}

// stopAtSafePoint freezes the commands of a group where one of them waits for a file,
// and says whether that was before ctx ended. If not, they go on.
func (r *Runtime) stopAtSafePoint(ctx context.Context, dir string) bool {
	tick := time.NewTicker(safeLook)
	defer tick.Stop()
	for {
		if r.anyInFileCall(dir) {
			// What cannot be frozen is at no safe point, or gone.
			if err := r.o.Cgroup.FreezeGroup(dir, true); err == nil && r.standsInFileCall(ctx, dir) {
				return true
			}
			_ = r.o.Cgroup.FreezeGroup(dir, false)
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// anyInFileCall says whether one of the commands that dump sleeps in a call on a file.
func (r *Runtime) anyInFileCall(dir string) bool {
	pids, err := r.dumping(dir)
	return err == nil && slices.ContainsFunc(pids, func(pid int) bool { return callOf(pid) == inFileCall })
}

// standsInFileCall waits until none of the commands of a frozen group runs any more, and
// says whether one of them was stopped in a call on a file.
func (r *Runtime) standsInFileCall(ctx context.Context, dir string) bool {
	tick := time.NewTicker(safeLook)
	defer tick.Stop()
	for {
		pids, err := r.dumping(dir)
		if err != nil {
			return false
		}
		calls := map[call]bool{}
		for _, pid := range pids {
			calls[callOf(pid)] = true
		}
		if !calls[running] {
			return calls[inFileCall]
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// dumping are the commands of a group but runc, which waits for CRIU's messages and
// may use files meanwhile, whatever CRIU does.
func (r *Runtime) dumping(dir string) ([]int, error) {
	pids, err := r.o.Cgroup.Processes(dir)
	return slices.DeleteFunc(pids, func(pid int) bool {
		name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		return err == nil && strings.TrimSpace(string(name)) == filepath.Base(r.o.Runc)
	}), err
}

// call is what the main thread of a command does.
type call int

const (
	// elsewhere: it has ended, or sleeps or is stopped in something else.
	elsewhere call = iota
	running
	// inFileCall: it sleeps or is stopped in a system call on a file or directory.
	inFileCall
)

// callOf looks at a process's main thread. CRIU and the tar that it starts have no other.
func callOf(pid int) call {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/syscall")
	if err != nil {
		return elsewhere
	}
	return parseCall(string(b))
}

// parseCall reads a /proc/PID/syscall: "running", or the number of the call (-1 for
// none) and its arguments.
func parseCall(s string) call {
	number, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	if number == "running" {
		return running
	}
	if n, err := strconv.Atoi(number); err == nil && slices.Contains(fileCalls, n) {
		return inFileCall
	}
	return elsewhere
}

// fileCalls are the calls by which a volume is used. Those that also serve the
// talk with tasks (ptrace, wait4, sendto, recvfrom, and read and preadv, which
// read the tasks' files in /proc) are not among them.
var fileCalls = []int{
	unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_SPLICE, unix.SYS_SENDFILE,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_MKDIRAT, unix.SYS_SYMLINKAT,
	unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2, unix.SYS_STATX, unix.SYS_STATFS, unix.SYS_GETDENTS64, unix.SYS_READLINKAT,
}

// awaitUntraced returns when no task of the container has a tracer.
func (r *Runtime) awaitUntraced(ctx context.Context, c runtime.Container) error {
	tick := time.NewTicker(safeLook)
	defer tick.Stop()
	for {
		pids, err := r.o.Cgroup.Processes(c.CgroupDir)
		if err != nil {
			return err
		}
		held := slices.DeleteFunc(pids, func(pid int) bool { return !traced(pid) })
		if len(held) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v are still traced: %w", held, ctx.Err())
		case <-tick.C:
		}
	}
}

// traced says whether a thread of a process has a tracer.
func traced(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, t := range threads {
		b, err := os.ReadFile(dir + "/" + t.Name() + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "TracerPid:"); ok && strings.TrimSpace(v) != "0" {
				return true
			}
		}
	}
	return false
}
