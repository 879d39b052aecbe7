// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/wire"
)

// errDeadline: the restore did not end in time and was ended.
var errDeadline = errors.New("not finished in time")

// child is a running "runc restore".
type child struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	result error // valid once ended is closed
}

// startRestore starts runc.
//
//   - Its standard streams are the container's, as with create.
//   - It dies with this process (containerd kills that at its own deadline): a
//     restore that nobody waits for must not go on to start CRIU.
//   - It inherits the hold, as descriptor 3, which CRIU's own socket replaces in
//     its children: the agent sees the hold end only when neither of the two can
//     start anything any more.
//   - Its memory is not given huge pages, nor is that of its children (prctl(2),
//     PR_SET_THP_DISABLE), until CRIU gives a process the setting that it had. CRIU fills
//     memory before it says which of it is to have none, and with huge pages a process
//     that was moved dirties 2 MiB with every byte it writes, and cannot be moved again.
//   - Neither process becomes a subreaper: the restored init is a child of runc
//     and, when that ends, of containerd's shim.
func (w *wrapper) startRestore(c command, a createArgs, hold *wire.Hold, im *wire.Images, rec *restoring, env []string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start runc: %w", err)
	}
	cmd := w.runc.Command(c.restoreArgs(a, im.Dir, im.WorkDir)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{hold.File()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(cmd.Env, "CRIU_CONFIG_FILE="+configPath(im))
	cmd.Env = append(cmd.Env, scriptEnv(rec, self)...)
	cmd.Env = append(cmd.Env, env...)
	if im.Frozen {
		home, err := ownCgroup(w.cgroupRoot)
		if err != nil {
			return nil, fmt.Errorf("start runc: %w", err)
		}
		cmd.Env = append(cmd.Env, envHome+"="+home)
	}
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		_ = c.logWarning("restoring with huge pages: " + err.Error()) // it runs all the same
	}
	ch := &child{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread ends that forked: this one
		// lives as long as the child or the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ch.result = cmd.Wait()
			close(ch.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start runc: %w", err)
	}
	return ch, nil
}

// await waits for runc, until the deadline.
func (w *wrapper) await(ctx context.Context, ch *child, rec *restoring) error {
	select {
	case <-ch.ended:
		if ch.result != nil {
			return fmt.Errorf("runc restore: %w", ch.result)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(errDeadline, w.stop(ch, rec))
	}
}

// stop ends a restore under way: first what is in the cgroup, which is CRIU and
// all that it has made. runc sees CRIU end and takes its mounts and its state
// away by itself, which it could not do if it were killed first.
func (w *wrapper) stop(ch *child, rec *restoring) error {
	err := killCgroup(rec.Cgroup, w.limits.cleanup)
	select {
	case <-ch.ended:
		return err
	case <-time.After(w.limits.cleanup):
	}
	// Its process group: runc, and a CRIU that has not reached the cgroup.
	if kerr := syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
		err = errors.Join(err, fmt.Errorf("kill runc: %w", kerr))
	}
	select {
	case <-ch.ended:
		return err
	case <-time.After(w.limits.cleanup):
		return errors.Join(err, errors.New("runc does not end"))
	}
}
