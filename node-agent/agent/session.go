// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/images"
)

// errGone: the Migration does not exist any more.
var errGone = errors.New("migration is gone")

// errMaybeStored: an earlier try of a write failed in a way that does not tell
// whether it was stored. Whatever follows from its being stored must be assumed.
var errMaybeStored = errors.New("an earlier try may have been stored")

// again says when a session wants to look again: at once (now), when something
// changes (never), or after a while at the latest.
type again time.Duration

const (
	now   again = 0
	never again = -1
)

// soon is again, and never now.
func soon(d time.Duration) again { return again(max(d, time.Millisecond)) }

// sessionBase is what both sides' sessions share.
type sessionBase struct {
	*Agent
	*session
	key types.NamespacedName
	uid types.UID
	log logr.Logger
}

// loop calls step until it says done or ctx ends. Errors back off, and a change
// of anything watched ends the backing off.
func (s *sessionBase) loop(ctx context.Context, step func(context.Context) (again, bool, error)) {
	const first, longest = 200 * time.Millisecond, 10 * time.Second
	backoff := first
	for ctx.Err() == nil {
		next, done, err := step(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.Error(err, "step failed, trying again", "after", backoff)
			next = again(backoff)
			backoff = min(2*backoff, longest)
		case done:
			return
		default:
			backoff = first
		}
		if next == now {
			continue
		}
		s.await(ctx, next)
	}
}

// await returns when something changed, after the given time, or when ctx ends.
func (s *sessionBase) await(ctx context.Context, a again) {
	var timer <-chan time.Time
	if a > 0 {
		t := time.NewTimer(time.Duration(a))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-timer:
	}
}

// get reads the Migration from the cache; errGone when it is gone or another
// one has taken its name.
func (s *sessionBase) get(ctx context.Context, r client.Reader) (*v1alpha1.Migration, error) {
	var m v1alpha1.Migration
	if err := r.Get(ctx, s.key, &m); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, errGone
		}
		return nil, err
	}
	if m.UID != s.uid {
		return nil, errGone
	}
	return &m, nil
}

// pod reads one side's pod; nil when it (this UID) is gone.
func (s *sessionBase) pod(ctx context.Context, ref v1alpha1.PodRef) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := s.Client.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: ref.PodName}, &pod)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case pod.UID != ref.PodUID:
		return nil, nil
	}
	return &pod, nil
}

// set is the migration's image set on the volume.
func (s *sessionBase) set() (*images.Set, error) {
	return s.Store.Set(string(s.uid))
}

// workName is the directory below the run directory with the logs of all migrations.
const workName = "work"

// stageName is the directory of a container below it where its final dump is made, or what
// is not memory of one that is restored.
const stageName = "stage"

// workDir is a directory on the node for the logs of one step.
func (s *sessionBase) workDir(elem ...string) (string, error) {
	dir := filepath.Join(append([]string{s.RunDir, workName, string(s.uid)}, elem...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("work directory: %w", err)
	}
	return dir, nil
}

// removeWork removes the node's traces of the migration. A CRIU that was killed
// in the middle of a restore leaves its temporary mounts there.
func (s *sessionBase) removeWork() error {
	dir := filepath.Join(s.RunDir, workName, string(s.uid))
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("remove work directory: %w", err)
	}
	for _, m := range slices.Backward(left) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("remove work directory: unmount %s: %w", m.Mountpoint, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove work directory: %w", err)
	}
	set, err := s.set()
	if err != nil {
		return err
	}
	return set.RemoveLocal()
}

// apply publishes a report as status.<side> under the side's field manager. It
// tries again on passing errors until ctx ends: a report is never optional.
func (s *sessionBase) apply(ctx context.Context, side string, manager string, report any) error {
	return s.applyTo(ctx, "", side, manager, report)
}

// applyTo is apply to that version of the Migration, and to no other, if one is given:
// an earlier try that is stored late changes nothing then. Somebody else's write in
// between is a conflict, and so is an earlier try's that was stored.
func (s *sessionBase) applyTo(ctx context.Context, version, side, manager string, report any) error {
	fields, err := kruntime.DefaultUnstructuredConverter.ToUnstructured(report)
	if err != nil {
		return fmt.Errorf("convert report: %w", err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{side: fields}}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Migration"))
	u.SetNamespace(s.key.Namespace)
	u.SetName(s.key.Name)
	// The UID makes sure that a report never lands on a namesake.
	u.SetUID(s.uid)
	u.SetResourceVersion(version)
	var maybeStored error
	backoff := wait.Backoff{Duration: 20 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 20, Cap: 5 * time.Second}
	for {
		err := s.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u.DeepCopy()),
			client.FieldOwner(manager), client.ForceOwnership)
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			return errors.Join(errGone, maybeStored)
		case apierrors.IsConflict(err), apierrors.IsInvalid(err), apierrors.IsForbidden(err):
			return fmt.Errorf("publish report: %w", errors.Join(notAllowed("report", err), maybeStored))
		}
		maybeStored = errMaybeStored
		t := time.NewTimer(backoff.Step())
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("publish report: %w", errors.Join(err, ctx.Err()))
		case <-t.C:
		}
	}
}

// event publishes an event on the Migration.
func (s *sessionBase) event(m *v1alpha1.Migration, e event, args ...any) {
	s.Recorder.Eventf(m, nil, e.kind, e.reason, e.action, e.format, args...)
}

func microTime(t time.Time) *metav1.MicroTime {
	mt := metav1.NewMicroTime(t)
	return &mt
}
