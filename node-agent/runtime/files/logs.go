// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// podName is what a pod's name looks like: labels with dots between them.
var podName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

// LogTree implements runtime.Files. The directory is NAMESPACE_NAME_UID/CONTAINER
// (BuildContainerLogsDirectory of kubelet's kuberuntime).
func (f *Files) LogTree(p runtime.Pod, container string) (runtime.Tree, error) {
	t := runtime.Tree{Name: logName}
	dir, err := logDir(p, container)
	if err != nil {
		return t, err
	}
	t.Dir = path.Join(f.o.LogDir, dir)
	if err := f.orNone(&t); err != nil {
		return t, fmt.Errorf("log of container %q: %w", container, err)
	}
	return t, nil
}

func logDir(p runtime.Pod, container string) (string, error) {
	if !label.MatchString(p.Namespace) || !podName.MatchString(p.Name) || !label.MatchString(p.UID) || !label.MatchString(container) {
		return "", fmt.Errorf("log of container %q of %+v: not a name", container, p)
	}
	return path.Join(strings.Join([]string{p.Namespace, p.Name, p.UID}, "_"), container), nil
}

// carriedName is the directory, beside a new container's log, with those that were carried.
const carriedName = ".carried"

// NewLogTree implements runtime.Files.
func (f *Files) NewLogTree(p runtime.Pod, container string) (runtime.Tree, error) {
	t, err := f.LogTree(p, container)
	if err != nil || t.Dir == "" {
		return t, err
	}
	t.Dir = path.Join(t.Dir, carriedName)
	d, err := f.o.Host.MkdirAll(t.Dir, 0o755)
	if err != nil {
		return t, fmt.Errorf("log of container %q: %w", container, err)
	}
	return t, d.Close()
}

// AdoptLog implements runtime.Files.
func (f *Files) AdoptLog(_ context.Context, t runtime.Tree) error {
	d, err := f.o.Host.Open(path.Dir(t.Dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("adopt a log: %w", err)
	}
	defer d.Close()
	root, err := os.OpenRoot(host.FDPath(d))
	if err != nil {
		return fmt.Errorf("adopt a log: %w", err)
	}
	defer root.Close()
	if err := adoptLog(root); err != nil {
		return fmt.Errorf("adopt a log: %w", err)
	}
	return nil
}

var (
	// currentLog is the log of a container that was restarted so many times, rotatedLog
	// what was rotated away from there, compressed or not.
	currentLog = regexp.MustCompile(`^([0-9]{1,9})\.log$`)
	rotatedLog = regexp.MustCompile(`^([0-9]{1,9})\.log(\.[0-9]{8}-[0-9]{6}(\.gz)?)$`)
)

// newLog is the log of a container that was never restarted.
const newLog = "0.log"

// adoptLog works in the directory of a container's logs. The newest of those that were
// carried counts, and what was rotated away from it: those before are of lives that the
// new container has not had. The new log was opened, to append to it, when the container
// was created: it stays the file that it is.
func adoptLog(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), carriedName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	newest := -1
	for _, e := range entries {
		if m := currentLog.FindStringSubmatch(e.Name()); m != nil && e.Type().IsRegular() {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				return err
			}
			newest = max(newest, n)
		}
	}
	if newest >= 0 {
		if err := copyLog(root, path.Join(carriedName, strconv.Itoa(newest)+".log")); err != nil {
			return err
		}
		for _, e := range entries {
			if m := rotatedLog.FindStringSubmatch(e.Name()); m != nil && e.Type().IsRegular() && m[1] == strconv.Itoa(newest) {
				if err := root.Rename(path.Join(carriedName, e.Name()), newLog+m[2]); err != nil {
					return err
				}
			}
		}
	}
	return root.RemoveAll(carriedName)
}

// copyLog puts a file into the new log, instead of what is in it.
func copyLog(root *os.Root, from string) error {
	in, err := root.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(newLog, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
