// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package debian fetches Debian packages of one suite, whatever release the
// machine itself runs, and reads what is in them. It drives the machine's own
// apt and dpkg, so mirrors, proxies and archive keys are those the machine is
// set up with.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoMirror means that apt on this machine has no Debian archive set up.
var ErrNoMirror = errors.New("apt has no Debian archive among its sources")

// Apt is a private apt configuration: its own lists, its own empty package
// database and its own download directory. Nothing is installed on the
// machine.
type Apt struct {
	dir   string
	suite string
}

// NewApt returns an apt that keeps its state under dir. It touches nothing
// until it is used.
func NewApt(dir, suite string) *Apt { return &Apt{dir: dir, suite: suite} }

// Download fetches the packages and everything they depend on, and returns the
// paths of the package files by package name. Recommended packages are not
// fetched. What an earlier call downloaded is used again.
func (a *Apt) Download(ctx context.Context, packages []string) (map[string]string, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	if _, err := a.run(ctx, "apt-get", "update"); err != nil {
		return nil, err
	}
	install := append([]string{"--yes", "--download-only", "install"}, packages...)
	if _, err := a.run(ctx, "apt-get", install...); err != nil {
		return nil, err
	}
	// The simulation names the closure; the download directory may also hold
	// other images' packages and older versions.
	plan, err := a.run(ctx, "apt-get", append([]string{"--simulate", "install"}, packages...)...)
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for _, p := range parsePlan(plan) {
		file := filepath.Join(a.archives(), p.fileName())
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("apt planned %s %s but did not download it: %w", p.name, p.version, err)
		}
		files[p.name] = file
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("apt plans to install nothing for %s", strings.Join(packages, " "))
	}
	return files, nil
}

func (a *Apt) archives() string { return filepath.Join(a.dir, "archives") }

// prepare writes the configuration.
func (a *Apt) prepare(ctx context.Context) error {
	for _, d := range []string{"lists/partial", "archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644); err != nil {
		return err
	}
	line, err := Source(ctx, a.suite)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(line), 0o644)
}

// Source is the line of apt's configuration for a suite of the archive that the
// machine's own apt uses for its own release; ErrNoMirror when it uses none.
func Source(ctx context.Context, suite string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt for its sources: %w", err)
	}
	uri, err := mirror(out)
	if err != nil {
		return "", err
	}
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	return fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, uri, suite), nil
}

// mirror picks the archive's address from the targets that apt knows: that of
// a plain Debian release, not of its updates or its security archive, which
// lie elsewhere.
func mirror(targets []byte) (string, error) {
	for line := range strings.Lines(string(targets)) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == "Debian" && f[1] == "main" && !strings.ContainsAny(f[2], "-/") {
			return f[3], nil
		}
	}
	return "", ErrNoMirror
}

func (a *Apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	options := []string{"-q"}
	for _, o := range []string{
		"APT::Architecture=amd64",
		"APT::Architectures=amd64",
		"APT::Install-Recommends=false",
		"APT::Get::List-Cleanup=false",
		// The download directory belongs to the caller, not to apt's user.
		"APT::Sandbox::User=root",
		"Acquire::Languages=none",
		"Acquire::Retries=3",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Dir::State=" + a.dir,
		"Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"Dir::State::status=" + filepath.Join(a.dir, "status"),
		"Dir::Cache=" + a.dir,
		"Dir::Cache::archives=" + a.archives(),
		"Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"Dir::Etc::sourceparts=" + filepath.Join(a.dir, "parts"),
		"Dir::Etc::preferences=" + filepath.Join(a.dir, "preferences"),
		"Dir::Etc::preferencesparts=" + filepath.Join(a.dir, "parts"),
	} {
		options = append(options, "-o", o)
	}
	cmd := exec.CommandContext(ctx, name, slices.Concat(options, args)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// planned is a package version that apt would install.
type planned struct{ name, version, arch string }

// fileName is the name apt gives the downloaded file: the epoch's colon is
// escaped.
func (p planned) fileName() string {
	return p.name + "_" + strings.ReplaceAll(p.version, ":", "%3a") + "_" + p.arch + ".deb"
}

// parsePlan reads the "Inst" lines of a simulated installation, for example
//
//	Inst libc6 (2.41-12 Debian:13.1/stable [amd64]) []
func parsePlan(out []byte) []planned {
	var plan []planned
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(line, "Inst ")
		if !ok {
			continue
		}
		name, rest, _ := strings.Cut(rest, " ")
		_, rest, ok = strings.Cut(rest, "(")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, ")")
		version, rest, _ := strings.Cut(rest, " ")
		_, rest, ok = strings.Cut(rest, "[")
		arch, _, closed := strings.Cut(rest, "]")
		if ok && closed {
			plan = append(plan, planned{name: name, version: version, arch: arch})
		}
	}
	return plan
}
