// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

func TestLogDir(t *testing.T) {
	pod := runtime.Pod{Namespace: "ns", Name: "web-0.a", UID: "1-2"}
	if dir, err := logDir(pod, "app"); err != nil || dir != "ns_web-0.a_1-2/app" {
		t.Errorf("got %q, %v", dir, err)
	}
	for _, bad := range []runtime.Pod{{Namespace: "..", Name: "a", UID: "b"}, {Namespace: "a", Name: "a/b", UID: "b"}, {Namespace: "a", Name: "b", UID: ""}} {
		if _, err := logDir(bad, "app"); err == nil {
			t.Errorf("%+v is taken for a pod", bad)
		}
	}
	if _, err := logDir(pod, "../app"); err == nil {
		t.Error("a path is taken for a container")
	}
}

func TestAdoptLog(t *testing.T) {
	for name, tc := range map[string]struct{ carried, want map[string]string }{
		"never restarted": {map[string]string{"0.log": "a", "0.log.20260102-030405.gz": "r"}, map[string]string{"0.log": "a", "0.log.20260102-030405.gz": "r"}},
		"restarted":       {map[string]string{"0.log": "first", "9.log": "old", "9.log.20260102-030405": "o", "10.log": "new", "10.log.20260102-030405": "r"}, map[string]string{"0.log": "new", "0.log.20260102-030405": "r"}},
		"no log":          {map[string]string{"other": "x"}, map[string]string{"0.log": ""}},
		"nothing carried": {nil, map[string]string{"0.log": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// It is open already.
			log, err := os.OpenFile(filepath.Join(dir, "0.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			for n, text := range tc.carried {
				file := filepath.Join(dir, carriedName, n)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for range 2 {
				if err := adoptLog(root); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := log.WriteString(", and goes on"); err != nil {
				t.Fatal(err)
			}
			tc.want["0.log"] += ", and goes on"
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != len(tc.want) {
				t.Errorf("there are %v", entries)
			}
			for n, want := range tc.want {
				if b, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(b) != want {
					t.Errorf("%s: %q, %v", n, b, err)
				}
			}
		})
	}
}
