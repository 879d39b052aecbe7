// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// treeKey names a tree: what it belongs to, a container or [images.Pod], and its name.
type treeKey struct{ owner, tree string }

// fileCopy is one copying of everything that travels as files.
type fileCopy struct {
	// dirs on the volume, and trees, by owner.
	dirs  map[string]string
	trees map[string][]runtime.Tree
	// running containers, none when the pod is frozen. since is what was copied before.
	running []runtime.Container
	since   map[treeKey]runtime.Copied

	mu   sync.Mutex
	done map[string]v1alpha1.FilesStatus // by owner
	have map[treeKey]runtime.Copied
}

// fileTrees are the trees of the pod by owner. A directory that several containers share
// is the first one's.
func (s *sourceSession) fileTrees(m *v1alpha1.Migration, pod *corev1.Pod, containers []runtime.Container) (map[string][]runtime.Tree, error) {
	trees := map[string][]runtime.Tree{}
	seen := map[string]bool{}
	for _, c := range containers {
		for _, t := range s.Node.Files.Trees(c) {
			if !seen[t.Dir] {
				seen[t.Dir] = true
				trees[c.Name] = append(trees[c.Name], t)
			}
		}
		if m.Spec.LogPolicy != v1alpha1.LogCarryOver {
			continue
		}
		t, err := s.Node.Files.LogTree(podOf(pod), c.Name)
		if err != nil {
			return nil, err
		}
		if t.Dir != "" {
			trees[c.Name] = append(trees[c.Name], t)
		}
	}
	for _, name := range migration.EmptyDirs(pod) {
		t, err := s.Node.Files.VolumeTree(string(pod.UID), name)
		if err == nil && t.Dir == "" {
			err = fmt.Errorf("kubelet has no directory for the emptyDir %q", name)
		}
		if err != nil {
			return nil, err
		}
		trees[images.Pod] = append(trees[images.Pod], t)
	}
	return trees, nil
}

func podOf(pod *corev1.Pod) runtime.Pod {
	return runtime.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// newFileCopy prepares a copying of the source's files. dir is where those of an owner go.
func (s *sourceSession) newFileCopy(ctx context.Context, m *v1alpha1.Migration, containers []runtime.Container, dir func(owner string) (string, error)) (*fileCopy, error) {
	pod, err := s.pod(ctx, m.Status.Source.PodRef)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, errors.New("the pod is gone")
	}
	c := &fileCopy{dirs: map[string]string{}, since: s.copied, done: map[string]v1alpha1.FilesStatus{}, have: map[treeKey]runtime.Copied{}}
	if c.trees, err = s.fileTrees(m, pod, containers); err != nil {
		return nil, err
	}
	for owner := range c.trees {
		if c.dirs[owner], err = dir(owner); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// run copies what has changed, of all trees side by side.
func (c *fileCopy) run(ctx context.Context, f runtime.Files) error {
	begun := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for owner, trees := range c.trees {
		for _, t := range trees {
			key := treeKey{owner, t.Name}
			g.Go(func() error {
				packed, err := f.Pack(ctx, t, runtime.PackOptions{Dir: c.dirs[owner], Since: c.since[key], Running: c.running})
				if err != nil {
					return fmt.Errorf("%s: %w", owner, err)
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				st := c.done[owner]
				st.Bytes += packed.Bytes
				st.Duration = duration(time.Since(begun))
				c.done[owner], c.have[key] = st, packed.Copied
				return nil
			})
		}
	}
	return g.Wait()
}

// copyRound copies the files in round k.
func (s *sourceSession) copyRound(ctx context.Context, m *v1alpha1.Migration, set *images.Set, containers []runtime.Container, k int) (*fileCopy, error) {
	c, err := s.newFileCopy(ctx, m, containers, func(owner string) (string, error) { return set.PrepareFiles(ctx, owner, k) })
	if err != nil {
		return nil, err
	}
	c.running = containers
	if err := c.run(ctx, s.Node.Files); err != nil {
		return nil, err
	}
	return c, s.saveCopied(c.have, k)
}

// hashFiles hashes what was packed in round k.
func (c *fileCopy) hash(ctx context.Context, set *images.Set, k int) error {
	for owner, st := range c.done {
		if st.Bytes == 0 {
			continue
		}
		if err := set.HashFiles(ctx, owner, k); err != nil {
			return fmt.Errorf("hash the files of round %d of %s: %w", k, owner, err)
		}
	}
	return nil
}

// of is what was copied of a container; nil when nothing was.
func (c *fileCopy) of(container string) *v1alpha1.FilesStatus {
	st := c.done[container]
	if st.Bytes == 0 {
		return nil
	}
	return &st
}

// recordVolumes puts what was copied of the volumes in round k into the report.
func (s *sourceSession) recordVolumes(c *fileCopy, k int32) {
	if st := c.of(images.Pod); st != nil {
		s.report.Volumes = append(s.report.Volumes, v1alpha1.VolumesStatus{Index: k, FilesStatus: *st})
	}
}

// copiedDir is where a node remembers what was copied up to round k, for the agent after
// this one: what is copied next builds on it.
func (s *sourceSession) copiedDir(k int) (string, error) { return s.workDir("copied", strconv.Itoa(k)) }

// copiedWhole is a file that is there when all others are. Those are called by their tree.
const copiedWhole = "whole"

// saveCopied remembers what was copied up to round k. What was up to the round before it
// stays: whether round k will be reported is not known yet.
func (s *sourceSession) saveCopied(have map[treeKey]runtime.Copied, k int) error {
	dir, err := s.copiedDir(k)
	if err != nil {
		return err
	}
	for key, c := range have {
		b, err := c.MarshalBinary()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, key.owner+"."+key.tree), b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("remember what was copied: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, copiedWhole), nil, 0o600); err != nil {
		return fmt.Errorf("remember what was copied: %w", err)
	}
	if k < 2 {
		return nil
	}
	old, err := s.copiedDir(k - 2)
	if err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// loadCopied is what was copied up to the last round that was reported.
func (s *sourceSession) loadCopied() error {
	n := s.rounds()
	if n == 0 {
		return nil
	}
	dir, err := s.copiedDir(int(n - 1))
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, copiedWhole))
	entries, rerr := os.ReadDir(dir)
	if err := errors.Join(err, rerr); err != nil {
		return fmt.Errorf("what was copied: %w", err)
	}
	copied := map[treeKey]runtime.Copied{}
	for _, e := range entries {
		if e.Name() == copiedWhole {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("what was copied: %w", err)
		}
		owner, tree, _ := strings.Cut(e.Name(), ".")
		if copied[treeKey{owner, tree}], err = s.Node.Files.Load(b); err != nil {
			return err
		}
	}
	s.copied = copied
	return nil
}

// errForgotten: another agent has copied files in rounds, and what they were is lost.
var errForgotten = errors.New("what was copied before the agent was restarted is not known any more; the pod goes on, try again")

// remembered fails when files were copied in rounds and it is not known which.
func (s *sourceSession) remembered() error {
	if s.rounds() > 0 && s.copied == nil {
		return errForgotten
	}
	return nil
}

// fileSize is about how much the files are that travel.
func (s *sourceSession) fileSize(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, containers []runtime.Container) (int64, error) {
	trees, err := s.fileTrees(m, pod, containers)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, list := range trees {
		for _, t := range list {
			size, err := s.Node.Files.Size(ctx, t)
			if err != nil {
				return 0, err
			}
			n += size
		}
	}
	return n, nil
}
