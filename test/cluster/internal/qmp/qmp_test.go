// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve plays a monitor that answers each command with the next of answers.
func serve(t *testing.T, answers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP": {"version": {}}}`)
		lines := bufio.NewScanner(conn)
		for i := 0; lines.Scan() && i < len(answers); i++ {
			fmt.Fprintln(conn, answers[i])
		}
		<-t.Context().Done()
	}()
	return path
}

func TestExecute(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    string
	}{
		"done":         {[]string{`{"return": {}}`, `{"return": {}}`}, ""},
		"event before": {[]string{`{"return": {}}`, `{"event": "SHUTDOWN"} {"return": {}}`}, ""},
		"refused":      {[]string{`{"return": {}}`, `{"error": {"class": "CommandNotFound", "desc": "no such thing"}}`}, "no such thing"},
	} {
		err := Execute(t.Context(), serve(t, c.answers...), "quit")
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

func TestExecuteEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Execute(ctx, serve(t, `{"return": {}}`), "quit"); err == nil {
		t.Error("a silent monitor was taken for success")
	}
}
