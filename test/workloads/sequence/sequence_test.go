// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
)

func TestNumbersAdvanceOnlyWhenAcknowledged(t *testing.T) {
	s := &sequence{incarnation: "i"}
	var sent []string
	answers := []error{nil, errRefused, errRefused, nil, nil}
	for _, a := range answers {
		s.step(func(line string) error { sent = append(sent, line); return a }, func() (string, error) { return "p", nil })
	}
	want := []string{"i 1 1 p", "i 2 1 p", "i 2 2 p", "i 2 3 p", "i 3 1 p"}
	if !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	s.step(func(line string) error { sent = append(sent, line); return nil }, func() (string, error) { return "", errors.New("no") })
	if got := sent[len(sent)-1]; got != "i 4 1 unknown" {
		t.Errorf("without a pod: %q", got)
	}
}

func TestSend(t *testing.T) {
	for answer, want := range map[string]bool{"ok\n": true, "no\n": false, "": false} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			got <- line
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}()
		address, err := parseAddress(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := send(address, "i 1 1 p"); (err == nil) != want {
			t.Errorf("answer %q: %v", answer, err)
		}
		if line := <-got; line != "i 1 1 p\n" {
			t.Errorf("sent %q", line)
		}
		_ = l.Close()
		if err := send(address, "x"); err == nil {
			t.Error("a write to nobody succeeded")
		}
	}
}

func TestFindPod(t *testing.T) {
	const mounts = `655 650 0:54 / / rw - overlay overlay rw
720 655 254:0 /var/lib/kubelet/pods/0b2c1f6e-7a3d-4c55-9d5e-0f1a2b3c4d5e/etc-hosts /etc/hosts rw,relatime - ext4 /dev/vda rw
721 655 0:43 / /dev/shm rw - tmpfs shm rw
`
	uid, err := findPod(mounts)
	if err != nil || uid != "0b2c1f6e-7a3d-4c55-9d5e-0f1a2b3c4d5e" {
		t.Errorf("%q, %v", uid, err)
	}
	other := mounts + "722 655 254:0 /var/lib/kubelet/pods/1b2c1f6e-7a3d-4c55-9d5e-0f1a2b3c4d5e/containers/main/0 /dev/termination-log rw - ext4 /dev/vda rw\n"
	if uid, err := findPod(other); err == nil {
		t.Errorf("two pods became %s", uid)
	}
	if uid, err := findPod("655 650 0:54 / / rw - overlay overlay rw\n"); err == nil {
		t.Errorf("no pod became %s", uid)
	}
}
