// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// place is where an owner's files go on the target.
type place struct {
	// owner is a container or [images.Pod]; id its container's on this node, or the pod's.
	owner, id string
	trees     []runtime.Tree
	// log is the one of the trees with a container's log; nil when there is none.
	log *runtime.Tree
	// done are the files that were unpacked here, by directory of the image set. What
	// has them from another agent gets them again: unpacking all from the beginning
	// makes the same.
	done map[string][]images.File
	// next round to unpack.
	next int32
	// laidOut: the final dump is where the container's restore looks for it.
	laidOut bool
}

// places finds out where files can go now: the volumes of a pod whose gate runs, and the
// file systems of the containers whose creates are parked. What a container that was
// restored may have open is not touched any more.
func (t *targetSession) places(pod *corev1.Pod) ([]*place, error) {
	var now []*place
	if pod != nil && !t.anyRestored() {
		p := &place{owner: images.Pod, id: t.podUID}
		for _, name := range migration.EmptyDirs(pod) {
			tree, err := t.Node.Files.VolumeTree(t.podUID, name)
			if err != nil {
				return nil, err
			}
			if tree.Dir != "" {
				p.trees = append(p.trees, tree)
			}
		}
		now = append(now, p)
	}
	for _, name := range t.containers {
		l := t.parking.lot(t.podUID, name)
		if l == nil || !l.waits() {
			continue
		}
		trees, err := t.Node.Files.BundleTrees(l.req.Bundle)
		if err != nil {
			return nil, err
		}
		p := &place{owner: name, id: l.req.ContainerID, trees: trees}
		if pod != nil {
			log, err := t.Node.Files.NewLogTree(podOf(pod), name)
			if err != nil {
				return nil, err
			}
			if log.Dir != "" {
				p.trees, p.log = append(p.trees, log), &log
			}
		}
		now = append(now, p)
	}
	for i, p := range now {
		old := t.filesAt[p.owner]
		if old != nil && old.id == p.id {
			old.trees, old.log = p.trees, p.log
			now[i] = old
			continue
		}
		p.done = map[string][]images.File{}
		if t.filesAt == nil {
			t.filesAt = map[string]*place{}
		}
		t.filesAt[p.owner] = p
	}
	return now, nil
}

// unpackRounds unpacks what the source has copied in the rounds that are verified, where
// it can go now. The pod that is to have it does not run, and is restored only if what was
// unpacked proves to be what the source published; see checkUnpacked.
func (t *targetSession) unpackRounds(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if migration.IsPlaceholder(m) {
		return nil // what the pod writes goes where it is restored
	}
	places, err := t.places(pod)
	if err != nil {
		return err
	}
	set, err := t.set()
	if err != nil {
		return err
	}
	upTo := t.report.VerifiedRounds
	packed := packedRounds(m.Status.Source.SourceReport)
	for _, p := range places {
		for ; p.next < upTo; p.next++ {
			if !packed[p.owner][p.next] {
				continue
			}
			k := int(p.next)
			files, err := reading(ctx, t, m.Spec.PreCopy.RoundTimeout.Duration, fmt.Sprintf("unpack the files of round %d of %s", k, p.owner), func(ctx context.Context) ([]images.File, error) {
				dir, err := set.VerifyFiles(ctx, p.owner, k)
				if err != nil {
					return nil, err
				}
				return dir.Files, p.unpack(ctx, t.Node.Files, set, dir)
			})
			if err != nil {
				return err
			}
			p.done[images.FilesName(k)] = files
		}
	}
	return nil
}

// packedRounds are the rounds in which files were packed, by owner.
func packedRounds(r v1alpha1.SourceReport) map[string]map[int32]bool {
	packed := map[string]map[int32]bool{images.Pod: {}}
	for _, v := range r.Volumes {
		packed[images.Pod][v.Index] = true
	}
	for _, c := range r.Containers {
		packed[c.Name] = map[int32]bool{}
		for _, round := range c.Rounds {
			packed[c.Name][round.Index] = round.Files != nil
		}
	}
	return packed
}

// unpack applies the files of one directory of the image set. What they are must be known,
// whether or not it can be trusted.
func (p *place) unpack(ctx context.Context, f runtime.Files, set *images.Set, dir images.Dir) error {
	for _, want := range dir.Files {
		i := slices.IndexFunc(p.trees, func(t runtime.Tree) bool { return t.Archive() == want.Name })
		if i < 0 {
			return fmt.Errorf("the pod has no such directory: %w", (images.Dir{Container: dir.Container, Name: dir.Name}).Same([]images.File{want}))
		}
		got, err := set.Read(ctx, dir.Container, dir.Name, want.Name, func(r io.Reader, size int64) error {
			return f.Unpack(ctx, p.trees[i], r, size)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.owner, err)
		}
		if err := (images.Dir{Container: dir.Container, Name: dir.Name, Files: []images.File{want}}).Same([]images.File{got}); err != nil {
			return err
		}
	}
	return nil
}

// checkUnpacked holds what was unpacked against the verified manifest. To be called before
// the commit: what was unpacked from anything else must not be restored.
func (t *targetSession) checkUnpacked(m *images.Manifest) error {
	for _, p := range t.filesAt {
		for name, files := range p.done {
			i := slices.IndexFunc(m.Dirs, func(d images.Dir) bool { return d.Container == p.owner && d.Name == name })
			listed := images.Dir{Container: p.owner, Name: name}
			if i >= 0 {
				listed = m.Dirs[i]
			}
			if err := listed.Same(files); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack applies the files of the verified set that have not been yet, in the order in
// which they were packed, and lays out the final dumps. It is given up when a restore would
// be, for it is a part of one.
func (t *targetSession) unpack(ctx context.Context, m *images.Manifest, pod *corev1.Pod) error {
	places, err := t.places(pod)
	if err != nil {
		return err
	}
	set, err := t.set()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range places {
		g.Go(func() error {
			for _, d := range filesOf(m, p.owner) {
				if _, done := p.done[d.Name]; done {
					continue
				}
				if _, err := onVolume(ctx, &t.sessionBase, t.Timeouts.Restore, p.owner, func(ctx context.Context) (struct{}, error) {
					return struct{}{}, p.unpack(ctx, t.Node.Files, set, d)
				}); err != nil {
					return err
				}
				p.done[d.Name] = d.Files
			}
			if err := t.layOut(ctx, set, m, p); err != nil {
				return err
			}
			if p.log == nil {
				return nil
			}
			return t.Node.Files.AdoptLog(ctx, *p.log)
		})
	}
	return g.Wait()
}

// layOut lays out the final dump of a container on the node, if it was not merged there.
func (t *targetSession) layOut(ctx context.Context, set *images.Set, m *images.Manifest, p *place) error {
	if p.owner == images.Pod || p.laidOut {
		return nil
	}
	local, err := t.workDir(p.owner, stageName)
	if err != nil {
		return err
	}
	_, err = onVolume(ctx, &t.sessionBase, t.Timeouts.Restore, "lay out the final dump of "+p.owner, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, set.LayOut(ctx, m, p.owner, local)
	})
	p.laidOut = err == nil
	return err
}

// filesOf are an owner's directories of files, in the order in which they were made.
func filesOf(m *images.Manifest, owner string) []images.Dir {
	var dirs []images.Dir
	var last []images.Dir
	for _, d := range m.Dirs { // by name, and so by round
		switch _, final, ok := images.FilesRound(d.Name); {
		case d.Container != owner || !ok:
		case final:
			last = append(last, d)
		default:
			dirs = append(dirs, d)
		}
	}
	return append(dirs, last...)
}

// failUnpacking is failReading for files that could not be unpacked.
func (t *targetSession) failUnpacking(ctx context.Context, m *v1alpha1.Migration, cause error) error {
	for _, passing := range []error{errDecided, errStuck, errNoAnswer, context.DeadlineExceeded} {
		if errors.Is(cause, passing) {
			return t.failReading(ctx, m, cause)
		}
	}
	if isNoSpace(cause) {
		return t.fail(ctx, m, v1alpha1.ReasonNoSpace, fmt.Errorf("the target's node has no room for the pod's files; free some, or choose another node: %w", cause))
	}
	f := unpackFailure(cause)
	return t.fail(ctx, m, f.Reason, errors.New(f.Message))
}
