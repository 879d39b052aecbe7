// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Names of trees.
const (
	// rootfsName is the difference of the root file system; its first archive is an
	// OCI layer.
	rootfsName = "rootfs"
	// shmName is the content of /dev/shm.
	shmName = "shm"
	// volumePrefix is before the name of an emptyDir.
	volumePrefix = "volume-"
	// logName is the container's log.
	logName = "log"
)

// label is what a pod's UID and a volume's name look like. They become parts of a path.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Trees implements runtime.Files.
func (f *Files) Trees(c runtime.Container) []runtime.Tree {
	var trees []runtime.Tree
	if c.UpperDir != "" {
		trees = append(trees, runtime.Tree{Name: rootfsName, Dir: c.UpperDir, Overlay: true})
	}
	if f.ofSandbox(c.ShmDir) {
		trees = append(trees, runtime.Tree{Name: shmName, Dir: c.ShmDir})
	}
	return trees
}

// BundleTrees implements runtime.Files.
func (f *Files) BundleTrees(bundle string) ([]runtime.Tree, error) {
	trees := []runtime.Tree{{Name: rootfsName, Dir: path.Join(bundle, "rootfs"), Overlay: true}}
	shm, err := f.shmDir(bundle)
	if err != nil {
		return nil, err
	}
	if shm != "" {
		trees = append(trees, runtime.Tree{Name: shmName, Dir: shm})
	}
	return trees, nil
}

// VolumeTree implements runtime.Files.
func (f *Files) VolumeTree(podUID, volume string) (runtime.Tree, error) {
	if !label.MatchString(podUID) || !label.MatchString(volume) {
		return runtime.Tree{}, fmt.Errorf("volume %q of pod %q: not a name", volume, podUID)
	}
	t := runtime.Tree{
		Name: volumePrefix + volume,
		Dir:  path.Join(f.o.KubeletDir, "pods", podUID, "volumes", "kubernetes.io~empty-dir", volume),
	}
	if err := f.orNone(&t); err != nil {
		return t, fmt.Errorf("volume %q: %w", volume, err)
	}
	return t, nil
}

// orNone makes Dir "" when there is no such directory.
func (f *Files) orNone(t *runtime.Tree) error {
	d, err := f.o.Host.Open(t.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		t.Dir = ""
		return nil
	}
	if err != nil {
		return err
	}
	return d.Close()
}

// ofSandbox says whether a directory that is mounted at /dev/shm is the pod sandbox's.
// The node's own (hostIPC) is not ours to fill, and an emptyDir that is mounted there
// travels as what it is.
func (f *Files) ofSandbox(dir string) bool {
	return strings.HasPrefix(path.Clean(dir), path.Clean(f.o.StateDir)+"/")
}

// shmDir is the directory on the node that the bundle's container will see as
// /dev/shm; "" when it gets a file system of its own there, which CRIU fills.
func (f *Files) shmDir(bundle string) (string, error) {
	b, err := f.o.Host.ReadFile(path.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return "", fmt.Errorf("read the bundle's configuration: %w", err)
	}
	source := ""
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" {
			source = ""
			if m.Type == "bind" {
				source = path.Clean(m.Source)
			}
		}
	}
	if !f.ofSandbox(source) {
		return "", nil
	}
	return source, nil
}
