// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// sequence is the state that has to survive.
type sequence struct {
	incarnation string
	// acknowledged is the last number that the log has.
	acknowledged uint64
	// attempt counts the writes of the number after that.
	attempt uint64
}

// step tries to write the next number, once.
func (s *sequence) step(send func(line string) error, pod func() (string, error)) {
	uid, err := pod()
	if err != nil {
		uid = "unknown" // the log's reader takes this for what it is: a fault
	}
	s.attempt++
	if send(fmt.Sprintf("%s %d %d %s", s.incarnation, s.acknowledged+1, s.attempt, uid)) == nil {
		s.acknowledged, s.attempt = s.acknowledged+1, 0
	}
}

var errRefused = errors.New("the log did not acknowledge")

// patience is how long each step of a write may take, in seconds.
const patience = 1

// send writes a line to the log and waits for the acknowledgement. It uses the
// kernel's blocking calls and their time limits; see pause.
func send(address unix.SockaddrInet4, line string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.Timeval{Sec: patience}
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	// Closing resets the connection: the kernel sends nothing more of a write
	// that the process has given up.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0}); err != nil {
		return err
	}
	if err := unix.Connect(fd, &address); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte(line+"\n")); err != nil {
		return err
	}
	answer := make([]byte, 16)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(answer[:max(n, 0)])) != "ok" {
		return errRefused
	}
	return nil
}

func parseAddress(s string) (unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return unix.SockaddrInet4{}, err
	}
	if !a.Addr().Is4() {
		return unix.SockaddrInet4{}, fmt.Errorf("%s is no IPv4 address", a.Addr())
	}
	return unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// podUID tells in which pod the process is: by the files that kubelet has
// mounted into it.
func podUID() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return findPod(string(mounts))
}

var podDir = regexp.MustCompile(`/pods/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/`)

// findPod looks for the pod whose directory is the root of a mount. All of them
// must agree.
func findPod(mountinfo string) (string, error) {
	uid := ""
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		m := podDir.FindStringSubmatch(fields[3])
		if m == nil {
			continue
		}
		if uid != "" && uid != m[1] {
			return "", fmt.Errorf("mounts of two pods, %s and %s", uid, m[1])
		}
		uid = m[1]
	}
	if uid == "" {
		return "", errors.New("no mount of a pod")
	}
	return uid, nil
}
