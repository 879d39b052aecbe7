// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// containerID is the form of the ids that containerd accepts; an id becomes
// part of paths.
var containerID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// Discard removes what a failed or killed restore left of a container. The
// cgroups come from the bundle's configuration, which containerd wrote, and from
// runc's state, when the restore got so far.
func (r *Runtime) Discard(ctx context.Context, id, bundle string) error {
	if !containerID.MatchString(id) {
		return fmt.Errorf("discard: %q is not a container id", id)
	}
	dirs, err := r.cgroupDirs(id, bundle)
	if err != nil {
		return fmt.Errorf("discard %s: %w", id, err)
	}
	for _, dir := range dirs {
		if err := r.o.Cgroup.KillAll(ctx, dir); err != nil {
			return fmt.Errorf("discard %s: %w", id, err)
		}
	}
	if err := r.unmountLeftovers(id, bundle); err != nil {
		return fmt.Errorf("discard %s: %w", id, err)
	}
	// --force makes a container that runc does not know a success. Its answer
	// proves nothing about processes; the check below does.
	_, derr := r.o.Host.Run(ctx, host.Command{Args: []string{r.o.Runc, "--root", r.o.RuncRoot, "delete", "--force", id}})
	for _, dir := range dirs {
		empty, err := r.o.Cgroup.Empty(dir)
		if err != nil {
			return fmt.Errorf("discard %s: %w", id, err)
		}
		if !empty {
			return fmt.Errorf("discard %s: a process entered cgroup %s again", id, dir)
		}
	}
	if derr != nil {
		return fmt.Errorf("discard %s: %w", id, derr)
	}
	return r.forgetState(id)
}

// forgetState sees that runc has no state directory for the id any more: a
// restore that was killed before it wrote state.json leaves one that runc delete
// does not recognise, and the next create with the id would fail.
func (r *Runtime) forgetState(id string) error {
	root, err := r.o.Host.Open(r.o.RuncRoot, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return removeAll(root, id)
}

// cgroupDirs are the cgroup directories that a container's processes can be in.
func (r *Runtime) cgroupDirs(id, bundle string) ([]string, error) {
	var dirs []string
	conf, err := r.o.Host.ReadFile(path.Join(bundle, "config.json"))
	switch {
	case err == nil:
		var spec specs.Spec
		if err := json.Unmarshal(conf, &spec); err != nil {
			return nil, fmt.Errorf("read the bundle's configuration: %w", err)
		}
		if spec.Linux != nil && spec.Linux.CgroupsPath != "" {
			dir, err := cgroupDir(spec.Linux.CgroupsPath)
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, dir)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	state, err := r.o.Host.ReadFile(path.Join(r.o.RuncRoot, id, "state.json"))
	switch {
	case err == nil:
		var st struct {
			CgroupPaths map[string]string `json:"cgroup_paths"`
		}
		if err := json.Unmarshal(state, &st); err != nil {
			return nil, fmt.Errorf("read runc's state: %w", err)
		}
		for _, dir := range st.CgroupPaths {
			dirs = append(dirs, path.Clean(dir))
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if len(dirs) == 0 {
		// Without one there is no proof that nothing runs.
		return nil, errors.New("neither the bundle nor runc's state names a cgroup")
	}
	return dirs, nil
}

// cgroupDir turns linux.cgroupsPath of an OCI configuration into a directory.
// The systemd driver's form is slice:prefix:name, "a-b.slice" lying in "a.slice".
func cgroupDir(cgroupsPath string) (string, error) {
	if path.IsAbs(cgroupsPath) {
		return path.Join(host.CgroupRoot, path.Clean(cgroupsPath)), nil
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || parts[2] == "" || strings.ContainsRune(cgroupsPath, '/') {
		return "", fmt.Errorf("cannot understand cgroupsPath %q", cgroupsPath)
	}
	dir := host.CgroupRoot
	slice := parts[0]
	if slice == "" {
		slice = "system.slice"
	}
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok {
		return "", fmt.Errorf("cannot understand cgroupsPath %q", cgroupsPath)
	}
	if name != "-" {
		prefix := ""
		for part := range strings.SplitSeq(name, "-") {
			if part == "" {
				return "", fmt.Errorf("cannot understand cgroupsPath %q", cgroupsPath)
			}
			prefix += part
			dir = path.Join(dir, prefix+".slice")
			prefix += "-"
		}
	}
	unit := parts[2]
	if !strings.HasSuffix(unit, ".slice") {
		if parts[1] != "" {
			unit = parts[1] + "-" + unit
		}
		unit += ".scope"
	}
	return path.Join(dir, unit), nil
}
