// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, address, line string) string {
	t.Helper()
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestLog(t *testing.T) {
	var kept bytes.Buffer
	l, err := Listen("127.0.0.1:0", &kept)
	if err != nil {
		t.Fatal(err)
	}
	l.Begin()
	seen := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		close(waiting)
		seen <- l.Await(t.Context(), func(r Record) bool { return r.Pod == "b" })
	}()
	<-waiting
	for _, line := range []string{"i 1 1 a\n", "i 2 1 b\n", "i 4 1 b\n"} {
		if got := write(t, l.Address(), line); got != "ok\n" {
			t.Errorf("%q was answered %q", line, got)
		}
	}
	// The waiting may have begun after these.
	for n := 5; len(seen) == 0; n++ {
		write(t, l.Address(), fmt.Sprintf("i %d 1 b\n", n))
	}
	if err := <-seen; err != nil {
		t.Error(err)
	}
	before := l.Verdict().Records
	for _, line := range []string{"what\n", "i 5 1 b"} {
		if got := write(t, l.Address(), line); got != "" {
			t.Errorf("%q was answered %q", line, got)
		}
	}
	v := l.Verdict()
	if v.Lost != 1 || v.Records != before || len(v.Problems) != 2 {
		t.Errorf("%+v", v)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Await(ctx, func(Record) bool { return true }); !errors.Is(err, ErrSilent) {
		t.Errorf("%v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(kept.String(), "\n"); n != before {
		t.Errorf("kept %d lines: %s", n, kept.String())
	}
}
