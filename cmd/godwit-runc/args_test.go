// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// words splits a command line of a test.
func words(s string) []string { return strings.Fields(s) }

func TestParseCommand(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want command
	}{
		{"", command{}},
		{"list", command{verb: "list"}},
		{"--root /r --log /l --log-format json --systemd-cgroup create --bundle /b ID",
			command{globals: words("--root /r --log /l --log-format json --systemd-cgroup"), root: "/r", log: "/l", logFormat: "json",
				systemdCgroup: true, verb: "create", rest: words("--bundle /b ID")}},
		{"-root=/r --debug --rootless auto start ID",
			command{globals: words("-root=/r --debug --rootless auto"), root: "/r", verb: "start", rest: words("ID")}},
		// The value of a flag may look like a verb.
		{"--root create start ID", command{globals: words("--root create"), root: "create", verb: "start", rest: words("ID")}},
		{"--log start create ID", command{globals: words("--log start"), log: "start", verb: "create", rest: words("ID")}},
		{"--systemd-cgroup=false state ID", command{globals: words("--systemd-cgroup=false"), verb: "state", rest: words("ID")}},
		{"-- create ID", command{globals: words("--"), verb: "create", rest: words("ID")}},
		{"--new-flag=x create ID", command{globals: words("--new-flag=x"), verb: "create", rest: words("ID")}},
		{"--version", command{globals: words("--version")}},
		{"--root", command{globals: words("--root")}},
		// No verb of ours can be meant: runc may judge.
		{"--new-flag x state ID", command{globals: words("--new-flag x state ID")}},
	} {
		if tc.want.root == "" {
			tc.want.root = defaultRoot
		}
		if tc.want.logFormat == "" {
			tc.want.logFormat = "text"
		}
		got, err := parseCommand(words(tc.in))
		if err != nil {
			t.Errorf("%q: %v", tc.in, err)
			continue
		}
		for _, c := range []*command{&got, &tc.want} {
			c.globals, c.rest = append([]string{}, c.globals...), append([]string{}, c.rest...)
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", tc.in, got, tc.want)
		}
	}
}

func TestUnknownGlobalFlagNeverHidesACreate(t *testing.T) {
	for _, in := range []string{"--new-flag create ID", "--new-flag x create ID", "--root /r --new start ID", "--new delete ID"} {
		if _, err := parseCommand(words(in)); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseCreate(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want createArgs
	}{
		{"--bundle /b --pid-file /p ID", createArgs{id: "ID", bundle: "/b", pidFile: "/p"}},
		{"-b /b --no-pivot --no-new-keyring ID", createArgs{id: "ID", bundle: "/b", noPivot: true}},
		{"--bundle=/b --pid-file=/p --console-socket=/s ID", createArgs{id: "ID", bundle: "/b", pidFile: "/p", consoleSocket: "/s"}},
		{"ID --bundle /b", createArgs{id: "ID", bundle: "/b"}},
		{"--preserve-fds 3 --pidfd-socket /s --bundle /b -- ID", createArgs{id: "ID", bundle: "/b"}},
		{"--bundle /b --shiny ID", createArgs{id: "ID", bundle: "/b", unknown: []string{"--shiny"}}},
		{"--bundle /b --shiny value ID", createArgs{id: "ID", bundle: "/b", unknown: []string{"--shiny"}}},
	} {
		got, err := parseCreate(words(tc.in))
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %v\ngot  %+v\nwant %+v", tc.in, err, got, tc.want)
		}
	}
	for _, in := range []string{"", "--bundle", "--bundle /b", "A B", "--bundle /b ../x", "--bundle /b a/b", "--bundle /b ..", "--bundle /b --"} {
		if a, err := parseCreate(words(in)); !errors.Is(err, errUsage) {
			t.Errorf("%q: %+v, %v", in, a, err)
		}
	}
}

func TestRestoreArgs(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p --no-new-keyring --preserve-fds 2 --pidfd-socket /s ID",
			"--root /r --log /l --log-format json --systemd-cgroup restore --detach --no-subreaper --tcp-established --ext-unix-sk --file-locks --bundle /b --image-path /i --work-path /w --pid-file /p ID"},
		{"create --no-pivot --bundle /b ID",
			"restore --detach --no-subreaper --tcp-established --ext-unix-sk --file-locks --bundle /b --image-path /i --work-path /w --no-pivot ID"},
	} {
		c, err := parseCommand(words(tc.in))
		if err != nil {
			t.Fatal(err)
		}
		a, err := parseCreate(c.rest)
		if err != nil {
			t.Fatal(err)
		}
		// The id names the create's hold, which is neither elsewhere nor hidden.
		if strings.ContainsRune(a.id, '~') || filepath.Base(a.id) != a.id {
			t.Fatalf("id %q", a.id)
		}
		if got := c.restoreArgs(a, "/i", "/w"); !slices.Equal(got, words(tc.want)) {
			t.Errorf("got  %q\nwant %q", got, words(tc.want))
		}
	}
}

func FuzzArguments(f *testing.F) {
	for _, s := range []string{
		"--root /r --log /l --log-format json create --bundle /b --pid-file /p ID",
		"-root=/r start ID", "--new x create ID", "-- create -- ID", "create --shiny ID ID2", "- create", "--= create", "create .ID", "create ID~", "create ..",
	} {
		f.Add(strings.ReplaceAll(s, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, joined string) {
		args := strings.Split(joined, "\x00")
		c, err := parseCommand(args)
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		// Nothing is lost or made up: what is handed on is what came in.
		again := slices.Clone(c.globals)
		if c.verb != "" || len(c.rest) > 0 {
			again = append(append(again, c.verb), c.rest...)
		}
		// (An empty word in the verb's place looks like none.)
		if c.verb == "" && len(again) < len(args) {
			again = append(again, "")
		}
		if !slices.Equal(again, args) {
			t.Fatalf("%q became %q", args, again)
		}
		if id := onlyID(c.rest); id != "" && checkID(id) != nil {
			t.Fatalf("id %q", id)
		}
		if c.verb != "create" {
			return
		}
		a, err := parseCreate(c.rest)
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if strings.ContainsRune(a.id, '/') || a.id == "" || a.id == ".." || !slices.Contains(c.rest, a.id) {
			t.Fatalf("id %q of %q", a.id, c.rest)
		}
		// The id names the create's hold, which is neither elsewhere nor hidden.
		if strings.ContainsRune(a.id, '~') || filepath.Base(a.id) != a.id {
			t.Fatalf("id %q", a.id)
		}
		if got := c.restoreArgs(a, "/i", "/w"); got[len(got)-1] != a.id || !slices.Equal(got[:len(c.globals)], c.globals) {
			t.Fatalf("restore with %q", got)
		}
	})
}
