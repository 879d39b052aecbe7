// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// searchPath is where commands of the node are looked up.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command is a command of the node.
type Command struct {
	// Args are the name, looked up on the node, and the arguments.
	Args []string
	// Env is added to a minimal environment.
	Env []string
	// Path is a directory of the node in which the command finds others first.
	Path string
	// Dir is the working directory, a path of the node. Default "/".
	Dir string
	// Stdin is the input; none when empty.
	Stdin []byte
	// Files are further descriptors, the first becomes 3.
	Files []*os.File
	// Group names a cgroup of the command's own below the commands' cgroup, by
	// which it and all it starts can be found, awaited and killed also by a later
	// agent (see GroupDir). Several commands may share one. Default: none.
	Group string
}

// Process is a started command.
type Process struct {
	args           []string
	cmd            *exec.Cmd
	stdout, stderr *os.File
	once           sync.Once
	out            []byte
	err            error

	mu     sync.Mutex
	reaped bool // guarded by mu
}

// Run runs a command and returns its standard output. When ctx ends, the
// command and everything it started are killed. A command that fails returns an
// *ExitError.
func (h *Host) Run(ctx context.Context, c Command) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := h.Start(c)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	out, err := p.Wait()
	if !stop() && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return out, err
}

// Start starts a command on the node: in the namespaces of the node's init
// process, in the commands' cgroup and in a session of its own, so that neither
// the end of the agent's container nor a signal to its process group reaches
// it. Its output goes to memory files rather than pipes, because a command that
// writes into a pipe whose reader has died is killed by SIGPIPE.
func (h *Host) Start(c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("no command")
	}
	p := &Process{args: c.Args}
	var err error
	if p.stdout, err = memfile("stdout"); err != nil {
		return nil, err
	}
	if p.stderr, err = memfile("stderr"); err != nil {
		return nil, errors.Join(err, p.stdout.Close())
	}
	err = h.Enter(func() error { return h.start(p, c) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.Args[0], err), p.stdout.Close(), p.stderr.Close())
	}
	return p, nil
}

// start runs on a thread that is in the node's namespaces; the child inherits
// them from this thread.
func (h *Host) start(p *Process, c Command) error {
	name, err := lookPath(c.Args[0])
	if err != nil {
		return err
	}
	dir := h.cgroup
	if c.Group != "" {
		dir = h.GroupDir(c.Group)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	cg, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer cg.Close()
	path := searchPath
	if c.Path != "" {
		path = c.Path + ":" + path
	}
	cmd := &exec.Cmd{
		Path:       name,
		Args:       c.Args,
		Env:        append([]string{"PATH=" + path, "HOME=/root", "LC_ALL=C"}, c.Env...),
		Dir:        c.Dir,
		Stdout:     p.stdout,
		Stderr:     p.stderr,
		ExtraFiles: c.Files,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:      true,
			UseCgroupFD: true,
			CgroupFD:    int(cg.Fd()),
		},
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if len(c.Stdin) > 0 {
		in, err := memfile("stdin")
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := in.Write(c.Stdin); err != nil {
			return err
		}
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return err
		}
		cmd.Stdin = in
	}
	p.cmd = cmd
	return cmd.Start()
}

// Enter runs fn on a thread of its own in the node's mount, cgroup, network,
// ipc and uts namespaces; paths that fn uses are paths of the node. fn must not
// start goroutines that expect the same. The thread ends afterwards.
func (h *Host) Enter(fn func() error) error {
	return onThread(func() error {
		pidfd, err := unix.PidfdOpen(h.init, 0)
		if err != nil {
			return fmt.Errorf("open the node's init process: %w", err)
		}
		defer unix.Close(pidfd)
		// Threads of a process share their root and working directory, and
		// setns refuses a new mount namespace to those.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the file system context: %w", err)
		}
		const all = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		if err := unix.Setns(pidfd, all); err != nil {
			return fmt.Errorf("enter the node's namespaces: %w", err)
		}
		return fn()
	})
}

// EnterNetwork runs fn on a thread of its own in the network namespace of a process.
func (h *Host) EnterNetwork(pid int, fn func() error) error {
	return onThread(func() error {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("open process %d: %w", pid, err)
		}
		defer unix.Close(pidfd)
		if err := unix.Setns(pidfd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
		}
		return fn()
	})
}

// onThread runs fn on an operating system thread that no other goroutine has
// used or will use: a goroutine that ends while locked takes its thread along.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// lookPath finds a program of the node. The caller's thread is in the node's
// mount namespace.
func lookPath(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		full := dir + "/" + name
		if err := unix.Access(full, unix.X_OK); err == nil {
			return full, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// memfile returns an anonymous file in memory.
func memfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// PID of the command.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill kills the command and everything in its process group.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return // the number may belong to another process by now
	}
	// An error means that nothing of the group is left.
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
}

// Wait waits for the end and returns the standard output. Repeating is safe.
func (p *Process) Wait() ([]byte, error) {
	p.once.Do(func() {
		// Wait without reaping first, so that Kill, which must not wait for the
		// lock as long as the command runs, never meets a number given away.
		awaitExit(p.cmd.Process.Pid)
		p.mu.Lock()
		err := p.cmd.Wait()
		p.reaped = true
		p.mu.Unlock()
		p.out = contents(p.stdout)
		stderr := contents(p.stderr)
		p.stdout.Close()
		p.stderr.Close()
		if err != nil {
			p.err = newExitError(p.args, err, p.out, stderr)
		}
	})
	return p.out, p.err
}

// awaitExit returns when a child has ended, and leaves it to be reaped.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// contents returns what a command has written.
func contents(f *os.File) []byte {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxFile))
	if err != nil {
		return nil
	}
	return b
}
