// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"errors"
	"slices"
	"testing"
)

func TestMirrorIsThePlainReleasesArchive(t *testing.T) {
	targets := "Debian main trixie-security http://sec.example/debian-security/\n" +
		"Other main trixie http://other.example/\n" +
		"Debian contrib trixie http://contrib.example/debian/\n" +
		"Debian main trixie http://mirror.example/debian/\n"
	got, err := mirror([]byte(targets))
	if err != nil || got != "http://mirror.example/debian/" {
		t.Fatalf("mirror = %q, %v", got, err)
	}
	if _, err := mirror([]byte("Other main trixie http://other.example/\n")); !errors.Is(err, ErrNoMirror) {
		t.Fatalf("without a Debian archive: %v, want ErrNoMirror", err)
	}
}

func TestParsePlan(t *testing.T) {
	out := `Reading package lists...
Inst libc6 (2.41-12+deb13u5 Debian:13.8/stable [amd64]) []
Inst redis-server (5:8.0.2-3+deb13u3 Debian:13.8/stable [amd64])
Inst init-system-helpers [1.60] (1.69~deb13u1 Debian:13.8/stable, Debian-Security:13/stable-security [all])
Conf libc6 (2.41-12+deb13u5 Debian:13.8/stable [amd64])
`
	var files []string
	for _, p := range parsePlan([]byte(out)) {
		files = append(files, p.fileName())
	}
	want := []string{
		"libc6_2.41-12+deb13u5_amd64.deb",
		"redis-server_5%3a8.0.2-3+deb13u3_amd64.deb",
		"init-system-helpers_1.69~deb13u1_all.deb",
	}
	if !slices.Equal(files, want) {
		t.Fatalf("plan files = %q, want %q", files, want)
	}
}
