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
	"path/filepath"
	"strings"

	"godwit.dev/godwit/test/images/debian"
)

// goodEmulator is the oldest version of qemu-system-x86 that is not replaced by a newer
// one. 7.2, of Debian 12, takes half as long again for a program that computes and twice
// as long to start one (a loop of a shell on a node, with and without /bin/true in it).
const goodEmulator = "1:10"

const emulator = "qemu-system-x86"

// OldEmulator says whether an emulator is installed that is slower than the one in the
// backports of the machine's release.
func OldEmulator(ctx context.Context) (bool, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", emulator).Output()
	if err != nil {
		return false, fmt.Errorf("dpkg-query %s: %w", emulator, err)
	}
	err = exec.CommandContext(ctx, "dpkg", "--compare-versions", strings.TrimSpace(string(out)), "lt", goodEmulator).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}

// UpgradeEmulator installs the emulator of the backports of the machine's release. The
// machine's own sources stay as they are.
func UpgradeEmulator(ctx context.Context, log io.Writer) error {
	release, err := codename()
	if err != nil {
		return err
	}
	suite := release + "-backports"
	line, err := debian.Source(ctx, suite)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "godwit-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, lists, none := filepath.Join(dir, "sources.list"), filepath.Join(dir, "lists"), filepath.Join(dir, "none")
	if err := errors.Join(os.WriteFile(source, []byte(line), 0o644), os.MkdirAll(filepath.Join(lists, "partial"), 0o755), os.Mkdir(none, 0o755)); err != nil {
		return err
	}
	options := []string{
		"-o", "Dir::Etc::sourcelist=" + source, "-o", "Dir::Etc::sourceparts=" + none, "-o", "Dir::State::lists=" + lists,
		// The directory is root's, not that of apt's user.
		"-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none",
	}
	return withApt(func() error { return apt(ctx, log, options, "-t", suite, emulator) })
}

// codename is the name of the machine's release.
func codename() (string, error) {
	const file = "/etc/os-release"
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", fmt.Errorf("%s names no release", file)
}
