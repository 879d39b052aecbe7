// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	flockFile = "/data/flock"
	posixFile = "/data/posix"
)

// locks are held by this process, and seen by its descendants.
type locks struct{ flock, posix *os.File }

func newLocks() (holder, error) {
	l := &locks{}
	var err error
	if l.flock, err = os.Create(flockFile); err != nil {
		return nil, err
	}
	if l.posix, err = os.Create(posixFile); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(l.flock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	return l, unix.FcntlFlock(l.posix.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 20})
}

func (*locks) name() string { return "locks" }

// step of another open file description: the descendants look at the rest.
func (l *locks) step() error {
	return isLocked()
}

// isLocked checks the first lock by another open file.
func isLocked() error {
	f, err := os.Open(flockFile)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil
	case err == nil:
		return errors.New("the flock is gone")
	}
	return fmt.Errorf("try the flock: %w", err)
}

// seesLocks is what a descendant checks.
func seesLocks() error {
	if err := isLocked(); err != nil {
		return err
	}
	f, err := os.OpenFile(posixFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return err
	}
	if lock.Type != unix.F_WRLCK || lock.Start != 10 || lock.Len != 20 {
		return fmt.Errorf("the POSIX lock is %+v", lock)
	}
	return nil
}

// descendant is a child process that answers a line with a line.
type descendant struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func start(role string) (*descendant, *exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return &descendant{in, bufio.NewReader(out)}, cmd, cmd.Start()
}

func (d *descendant) ask(n uint64) (string, error) {
	if _, err := fmt.Fprintln(d.in, n); err != nil {
		return "", err
	}
	line, err := d.out.ReadString('\n')
	return strings.TrimSpace(line), err
}

// answerParent is the life of a descendant: it counts the questions, looks at the
// locks, and asks its own child.
func answerParent(hasChild bool) error {
	var child *descendant
	if hasChild {
		var err error
		if child, _, err = start(roleGrandchild); err != nil {
			return err
		}
	}
	questions := bufio.NewScanner(os.Stdin)
	for n := uint64(1); questions.Scan(); n++ {
		answer := questions.Text()
		if answer != fmt.Sprint(n) {
			answer = fmt.Sprintf("question %s, want %d", answer, n)
		} else if err := seesLocks(); err != nil {
			answer = err.Error()
		} else if child != nil {
			if answer, err = child.ask(n); err != nil {
				return err
			}
		}
		fmt.Println(answer)
	}
	return questions.Err()
}

// tree are the descendants, and a child that has ended and was not waited for.
type tree struct {
	child  *descendant
	zombie int
	n      uint64
}

const zombieStatus = 7

func newTree() (holder, error) {
	child, _, err := start(roleChild)
	if err != nil {
		return nil, err
	}
	_, zombie, err := start(roleZombie)
	if err != nil {
		return nil, err
	}
	// WNOWAIT: seen to have ended, and left as it is.
	err = unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	return &tree{child: child, zombie: zombie.Process.Pid}, err
}

func (*tree) name() string { return "process tree" }

func (t *tree) step() error {
	t.n++
	answer, err := t.child.ask(t.n)
	if err != nil {
		return err
	}
	if answer != fmt.Sprint(t.n) {
		return errors.New(answer)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.zombie))
	if err != nil {
		return err
	}
	if _, after, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(after, "Z ") {
		return fmt.Errorf("the zombie is %q", stat)
	}
	return nil
}
