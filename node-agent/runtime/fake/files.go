// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Directories of the fake's trees that are in no file system.
const (
	rootfsDir  = "fake-rootfs/"
	volumesDir = "fake-volumes/"
)

// archive is what Pack writes, as JSON: what to set and what to remove.
type archive struct {
	Set     map[string]string `json:"set,omitempty"`
	Removed []string          `json:"removed,omitempty"`
}

// copied is runtime.Copied.
type copied map[string]string

// MarshalBinary implements runtime.Copied.
func (c copied) MarshalBinary() ([]byte, error) { return json.Marshal(map[string]string(c)) }

// Load implements runtime.Files.
func (r *Runtime) Load(b []byte) (runtime.Copied, error) {
	var c copied
	return c, json.Unmarshal(b, (*map[string]string)(&c))
}

// Trees implements runtime.Files.
func (r *Runtime) Trees(c runtime.Container) []runtime.Tree {
	return []runtime.Tree{{Name: "rootfs", Dir: rootfsDir + c.ID, Overlay: true}}
}

// BundleTrees implements runtime.Files.
func (r *Runtime) BundleTrees(bundle string) ([]runtime.Tree, error) {
	return []runtime.Tree{{Name: "rootfs", Dir: filepath.Join(bundle, "rootfs"), Overlay: true}}, nil
}

// VolumeTree implements runtime.Files. Every pod has every volume.
func (r *Runtime) VolumeTree(podUID, volume string) (runtime.Tree, error) {
	return runtime.Tree{Name: "volume-" + volume, Dir: path.Join(volumesDir, podUID, volume)}, nil
}

// LogTree implements runtime.Files. It is called as the real one is.
func (r *Runtime) LogTree(p runtime.Pod, container string) (runtime.Tree, error) {
	return runtime.Tree{Name: "log", Dir: path.Join(volumesDir, "logs", p.UID, container)}, nil
}

// NewLogTree implements runtime.Files.
func (r *Runtime) NewLogTree(p runtime.Pod, container string) (runtime.Tree, error) {
	return r.LogTree(p, container)
}

// AdoptLog does nothing: it is in its place.
func (r *Runtime) AdoptLog(ctx context.Context, _ runtime.Tree) error {
	if err := r.begin(ctx, Call{Method: "AdoptLog"}); err != nil {
		return err
	}
	r.mu.Unlock()
	return nil
}

// SetLog puts files into the directory of a container's logs, Log reads them.
func (r *Runtime) SetLog(podUID, container string, files map[string]string) {
	r.SetVolume("logs", path.Join(podUID, container), files)
}

// Log is what is in the directory of a container's logs.
func (r *Runtime) Log(podUID, container string) map[string]string {
	return r.Volume("logs", path.Join(podUID, container))
}

// SetVolume puts files into an emptyDir of a pod, instead of what was there.
func (r *Runtime) SetVolume(podUID, volume string, files map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.volumes[path.Join(volumesDir, podUID, volume)] = maps.Clone(files)
}

// Volume is what is in an emptyDir of a pod.
func (r *Runtime) Volume(podUID, volume string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.volumes[path.Join(volumesDir, podUID, volume)])
}

// tree is what is in a tree of a source. The lock is held.
func (r *Runtime) tree(t runtime.Tree) (map[string]string, error) {
	if id, ok := strings.CutPrefix(t.Dir, rootfsDir); ok {
		c, err := r.get(id)
		if err != nil {
			return nil, err
		}
		return c.files, nil
	}
	return r.volumes[t.Dir], nil
}

// Size implements runtime.Files.
func (r *Runtime) Size(ctx context.Context, t runtime.Tree) (int64, error) {
	if err := r.begin(ctx, Call{Method: "Size"}); err != nil {
		return 0, err
	}
	defer r.mu.Unlock()
	files, err := r.tree(t)
	var n int64
	for name, content := range files {
		n += int64(len(name) + len(content))
	}
	return n, err
}

// Pack writes what has changed in a tree as JSON; the name is that of the real one.
func (r *Runtime) Pack(ctx context.Context, t runtime.Tree, o runtime.PackOptions) (runtime.Packed, error) {
	if err := r.begin(ctx, Call{Method: "Pack", Container: strings.TrimPrefix(t.Dir, rootfsDir), Pack: o}); err != nil {
		return runtime.Packed{}, err
	}
	defer r.mu.Unlock()
	files, err := r.tree(t)
	if err != nil {
		return runtime.Packed{}, err
	}
	since, _ := o.Since.(copied)
	a := archive{Set: map[string]string{}}
	for name, content := range files {
		if have, ok := since[name]; !ok || have != content {
			a.Set[name] = content
		}
	}
	for name := range since {
		if _, ok := files[name]; !ok {
			a.Removed = append(a.Removed, name)
		}
	}
	p := runtime.Packed{Copied: copied(maps.Clone(files))}
	if len(a.Set)+len(a.Removed) == 0 {
		return p, nil
	}
	b, err := json.Marshal(a)
	if err != nil {
		return p, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return p, err
	}
	p.Bytes = int64(len(b))
	f, err := os.OpenFile(filepath.Join(o.Dir, t.Archive()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return p, err
	}
	_, err = f.Write(b)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	return p, errors.Join(err, f.Close())
}

// Unpack applies an archive to a bundle's root file system, or to a volume.
func (r *Runtime) Unpack(ctx context.Context, t runtime.Tree, in io.Reader, _ int64) error {
	if err := r.begin(ctx, Call{Method: "Unpack"}); err != nil {
		return err
	}
	defer r.mu.Unlock()
	var a archive
	if err := json.NewDecoder(in).Decode(&a); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if strings.HasPrefix(t.Dir, volumesDir) {
		if r.volumes[t.Dir] == nil {
			r.volumes[t.Dir] = map[string]string{}
		}
		maps.Copy(r.volumes[t.Dir], a.Set)
		for _, name := range a.Removed {
			delete(r.volumes[t.Dir], name)
		}
		return nil
	}
	root, err := os.OpenRoot(t.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range a.Removed {
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	for name, content := range a.Set {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		if err := root.WriteFile(name, []byte(content), 0o644); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return nil
}
