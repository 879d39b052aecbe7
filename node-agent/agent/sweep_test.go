// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	fakeclient "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

const (
	goneUID = "11111111-2222-3333-4444-555555555555"
	liveUID = "66666666-2222-3333-4444-555555555555"
	podUID  = "99999999-2222-3333-4444-555555555555"
)

// world is an agent that has just started, on a node where another has crashed.
type world struct {
	*testing.T
	*sweeper
	node     *fake.Runtime
	c        *fake.Container
	recorder *events.FakeRecorder
	now      time.Time
	volume   string
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	scheme := kruntime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, v1alpha1.AddToScheme(scheme))
	w := &world{T: t, node: fake.New(), recorder: events.NewFakeRecorder(10), now: time.Now(), volume: t.TempDir()}
	store, err := images.Open(w.volume, images.Options{})
	must(t, err)
	cl := fakeclient.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Migration{}).Build()
	a := New(Config{
		NodeName: "n1", RunDir: t.TempDir(), Client: cl, Live: cl, Recorder: w.recorder, Store: store,
		Node: Node{Finder: w.node, Checkpointer: w.node, Freezer: w.node, Throttler: w.node, Isolator: w.node, Holder: w.node, Separator: w.node, Killer: w.node},
		Now:  func() time.Time { return w.now },
	})
	w.sweeper = &sweeper{Agent: a, unknown: map[types.UID]time.Time{}}
	w.c = w.node.Add(fake.ContainerOptions{Info: runtime.Container{ID: "c1", Name: "main", PodUID: podUID}})
	return w
}

// frozen leaves what an agent leaves that crashes in a switchover.
func (w *world) frozen(uid types.UID, published bool) {
	w.Helper()
	must(w.T, w.hold(held{
		Namespace: "ns", Migration: "m", UID: uid, Pod: "app", PodUID: podUID,
		Containers: []runtime.Container{w.c.Info()}, Deadline: w.now.Add(time.Minute), Published: published,
	}))
	must(w.T, w.node.Isolate(w.Context(), w.c.Info()))
	must(w.T, w.node.Freeze(w.Context(), w.c.Info()))
}

func (w *world) isHeld(want bool) {
	w.Helper()
	if w.c.IsFrozen() != want || w.c.IsIsolated() != want {
		w.Errorf("frozen %t and isolated %t, want %t", w.c.IsFrozen(), w.c.IsIsolated(), want)
	}
	if h, err := w.heldBy(goneUID); err != nil || (h != nil) != want {
		w.Errorf("the record is %v, %v, want one: %t", h, err, want)
	}
}

func (w *world) makeDir(elem ...string) string {
	w.Helper()
	dir := filepath.Join(elem...)
	must(w.T, os.MkdirAll(dir, 0o700))
	return dir
}

func there(path string) bool { _, err := os.Lstat(path); return err == nil }

func sourcePod(annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", UID: podUID, Annotations: annotations}}
}

func TestAFrozenPodWithoutMigrationGoesOnIfNothingWasPublished(t *testing.T) {
	w := newWorld(t, sourcePod(nil))
	w.frozen(goneUID, false)
	must(t, w.sweep(t.Context()))
	w.isHeld(false)
}

func TestADumpThatStillRunsIsAwaitedBeforeTheThaw(t *testing.T) {
	w := newWorld(t, sourcePod(nil))
	w.frozen(goneUID, false)
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w.node.SetHook("Dump", func(context.Context, string) error {
		close(begun)
		<-release
		if !w.c.IsFrozen() {
			t.Error("thawed under a dump")
		}
		return nil
	})
	options := runtime.DumpOptions{ImageDir: filepath.Join(t.TempDir(), "i"), WorkDir: t.TempDir()}
	go func() { // started by the agent that has crashed
		defer close(ended)
		if _, err := w.node.Dump(context.Background(), w.c.Info(), options); err != nil {
			t.Errorf("the dump was ended: %v", err)
		}
	}()
	<-begun
	swept := make(chan error, 1)
	go func() { swept <- w.sweep(t.Context()) }()
	for deadline := time.Now().Add(10 * time.Second); len(w.node.Calls()) == 0 || w.node.Methods()[len(w.node.Methods())-1] != "Settle"; {
		if time.Now().After(deadline) {
			t.Fatalf("the dump is not waited for: %v", w.node.Methods())
		}
		time.Sleep(time.Millisecond) // the fake has no way to call back
	}
	close(release)
	<-ended
	must(t, <-swept)
	w.isHeld(false)
}

func TestAFrozenPodWithoutMigrationStaysFrozenOncePublished(t *testing.T) {
	w := newWorld(t, sourcePod(nil))
	w.frozen(goneUID, true)
	set := w.makeDir(w.volume, goneUID)
	for range 3 {
		must(t, w.sweep(t.Context()))
		w.now = w.now.Add(time.Hour)
	}
	w.isHeld(true)
	if !there(set) {
		t.Error("the images are gone, which may be all that is left of the pod")
	}
	if e := <-w.recorder.Events; e == "" {
		t.Error("nobody is told")
	}
}

func TestAPersonGivesAFrozenPodBackToItsSource(t *testing.T) {
	w := newWorld(t, sourcePod(map[string]string{v1alpha1.AnnotationResolve: string(v1alpha1.ResolveSource)}))
	w.frozen(goneUID, true)
	must(t, w.sweep(t.Context()))
	w.isHeld(false)
}

func TestAnotherValueOfTheAnnotationDecidesNothing(t *testing.T) {
	w := newWorld(t, sourcePod(map[string]string{v1alpha1.AnnotationResolve: "Target"}))
	w.frozen(goneUID, true)
	must(t, w.sweep(t.Context()))
	w.isHeld(true)
}

func TestWhatWeDidNotFreezeIsNotThawed(t *testing.T) {
	w := newWorld(t, sourcePod(nil))
	must(t, w.node.Freeze(t.Context(), w.c.Info()))
	must(t, w.sweep(t.Context()))
	if !w.c.IsFrozen() {
		t.Error("thawed what another has frozen")
	}
}

func TestTheFreezeOfALiveMigrationIsItsSessions(t *testing.T) {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: goneUID}}
	w := newWorld(t, m, sourcePod(nil))
	w.frozen(goneUID, false)
	must(t, w.sweep(t.Context()))
	w.isHeld(true)
}

func TestTheRecordOfAPodThatIsGoneIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.frozen(goneUID, true)
	w.node.Remove("c1")
	must(t, w.sweep(t.Context()))
	if h, err := w.heldBy(goneUID); h != nil || err != nil {
		t.Errorf("left: %v %v", h, err)
	}
}

func TestLeftoversOfMigrationsThatAreOverAreRemoved(t *testing.T) {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: liveUID}}
	m.Status.Phase = v1alpha1.PhasePreCopying
	w := newWorld(t, m)
	gone := []string{w.makeDir(w.volume, goneUID, "main"), w.makeDir(w.RunDir, "work", goneUID, "main"), w.makeDir(w.RunDir, "state", goneUID)}
	live := []string{w.makeDir(w.volume, liveUID, "main"), w.makeDir(w.RunDir, "work", liveUID, "main"), w.makeDir(w.RunDir, "state", liveUID)}
	must(t, w.sweep(t.Context()))
	for _, dir := range append(gone, live...) {
		if !there(dir) {
			t.Errorf("%s was removed at first sight: a restore may be reading it", dir)
		}
	}
	w.now = w.now.Add(w.Timeouts.Restore)
	must(t, w.sweep(t.Context()))
	for _, dir := range gone {
		if there(dir) {
			t.Errorf("%s is left", dir)
		}
	}
	for _, dir := range live {
		if !there(dir) {
			t.Errorf("%s of a live migration was removed", dir)
		}
	}
	m.Status.Phase = v1alpha1.PhaseFailed
	m.Status.Source = &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{State: v1alpha1.SourceResumed}}
	must(t, w.Client.Status().Update(t.Context(), m))
	must(t, w.sweep(t.Context()))
	if !there(live[0]) {
		t.Error("swept before the source has cleaned up")
	}
	m.Status.Source.State = v1alpha1.SourceCleaned
	must(t, w.Client.Status().Update(t.Context(), m))
	must(t, w.sweep(t.Context()))
	if there(live[0]) {
		t.Error("the set of a migration that is over is left")
	}
}

func TestAVolumeThatDoesNotAnswerHoldsNoFrozenPodUp(t *testing.T) {
	w := newWorld(t, sourcePod(nil))
	w.frozen(goneUID, false)
	w.pending.add("", 1) // an earlier sweep waits for the volume
	if err := w.sweep(t.Context()); err == nil {
		t.Error("the volume was swept by two at once")
	}
	w.isHeld(false)
}

func TestARestoreWhoseWrapperWasKilledIsClearedAway(t *testing.T) {
	w := newWorld(t)
	dir := w.makeDir(w.RunDir, "restoring")
	for _, id := range []string{"c1", "dead"} { // c1 runs
		must(t, os.WriteFile(filepath.Join(dir, id), []byte("{}"), 0o600))
	}
	must(t, w.sweep(t.Context()))
	if !there(filepath.Join(dir, "dead")) {
		t.Error("a restore that may be under way was cleared away")
	}
	w.now = w.now.Add(w.Timeouts.Park + 2*w.Timeouts.Restore + time.Minute)
	must(t, w.sweep(t.Context()))
	if got := w.node.Discarded(); len(got) != 1 || got[0] != "dead" {
		t.Errorf("discarded %v", got)
	}
	if w.c.IsKilled() || there(filepath.Join(dir, "c1")) || there(filepath.Join(dir, "dead")) {
		t.Error("a restored container was killed, or a record is left")
	}
}

// Nobody can let a container go whose Migration is gone.
func TestWhatStandsStillWithoutMigrationIsEnded(t *testing.T) {
	for name, live := range map[string]bool{"gone": false, "live": true} {
		t.Run(name, func(t *testing.T) {
			var objects []client.Object
			if live {
				m := &v1alpha1.Migration{}
				m.Namespace, m.Name, m.UID = "ns", "m", liveUID
				m.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodUID: podUID}}
				objects = append(objects, m)
			}
			w := newWorld(t, objects...)
			h, err := wire.TakeHold(w.RunDir, &wire.Request{PodUID: podUID, ContainerName: "main", ContainerID: "c1"})
			must(t, err)
			must(t, h.Ordered())
			must(t, h.Frozen(&wire.Result{PID: 1}))
			must(t, h.Release())
			must(t, w.node.Freeze(t.Context(), w.c.Info()))
			for range 2 { // it is killed, and then seen to be gone
				must(t, w.sweepStanding(t.Context()))
			}
			if w.c.IsKilled() == live {
				t.Errorf("killed: %v", w.c.IsKilled())
			}
			left, err := wire.AllStanding(w.RunDir)
			if must(t, err); (len(left) == 1) != live {
				t.Errorf("left: %+v", left)
			}
		})
	}
}

// What an agent that has crashed has held is let go when no Migration needs it any more.
func TestAddressesAreHeldForThoseThatNeedThem(t *testing.T) {
	migration := func(uid types.UID, phase v1alpha1.MigrationPhase, node string) *v1alpha1.Migration {
		m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: string(uid), UID: uid}}
		m.Status = v1alpha1.MigrationStatus{Phase: phase, Connections: &v1alpha1.ConnectionsStatus{Addresses: []string{"192.0.2.1"}},
			Handover: &v1alpha1.Handover{State: v1alpha1.HandoverCommitted},
			Target:   &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: node}}}
		return m
	}
	w := newWorld(t, migration("needed", v1alpha1.PhaseReplacing, "n1"), migration("over", v1alpha1.PhaseSucceeded, "n1"), migration("elsewhere", v1alpha1.PhaseReplacing, "n2"))
	for _, uid := range []string{"needed", "over", "elsewhere", goneUID} {
		must(t, w.node.Hold(t.Context(), uid, nil))
	}
	must(t, w.sweepAddresses(t.Context()))
	if held, err := w.node.Held(t.Context()); err != nil || !slices.Equal(held, []string{"needed"}) {
		t.Errorf("held: %v, %v", held, err)
	}
}
