// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// simOwner is a ReplicaSet that wants one pod. It acts on what it saw a moment ago;
// of two pods it removes the one that is not ready.
type simOwner struct {
	// The source's annotation: released by the migration, or given back and not
	// settled.
	released, returned bool
	// sees is how many pods it has seen to be its own.
	sees int
	// extra: it has an ordinary pod, which nobody asked for if the webhook was
	// missed (blind), and else stands for one that it has really lost.
	extra, blind bool
}

// ownerHas counts the owner's pods, as they are.
func (w *world) ownerHas() (n int) {
	for _, counted := range []bool{
		w.source.exists && !w.source.deleting && !w.owner.released,
		w.target.exists && !w.target.deleting,
		w.owner.extra,
	} {
		if counted {
			n++
		}
	}
	return n
}

// ownerActs is one look of the owner's controller.
func (w *world) ownerActs(faults bool) {
	if !faults || w.pick(3) > 0 {
		w.owner.sees = w.ownerHas()
	}
	switch has := w.ownerHas(); {
	case w.owner.sees == 0:
		w.ownerCreates(faults)
	case has > 1 && w.target.exists && !w.target.deleting && (!w.owner.extra || !w.target.started):
		w.log("the owner removes the target")
		w.target.deleting = true
	case has > 1 && w.owner.extra:
		w.log("the owner removes the other pod")
		w.owner.extra = false
	}
}

// ownerCreates makes a pod; the webhook says what of it.
func (w *world) ownerCreates(faults bool) {
	m := w.latest()
	o := SteerObservation{Migration: m, Pod: simReplica(nil), Full: w.ownerHas() >= 1}
	if w.source.exists {
		o.Source = simReplica(nil)
		if w.owner.released || w.owner.returned {
			o.Source = simReplica(&Release{Migration: m.UID, Owner: *metav1.GetControllerOf(o.Source), Returned: w.owner.returned})
		}
	}
	if w.target.exists {
		o.Target = simReplica(nil)
		if w.target.deleting {
			o.Target.DeletionTimestamp = &metav1.Time{Time: w.now}
		}
	}
	verdict, why := w.deciders.steer(o)
	if faults && w.pick(8) == 0 {
		verdict, w.owner.blind = SteerPass, true
	}
	w.log("the owner makes a pod: %s %s", verdict, why)
	switch verdict {
	case SteerTake:
		if !w.target.exists { // the name is taken else
			w.newTarget()
		}
	case SteerPass:
		over := m.Status.Phase == v1alpha1.PhaseCompleting || Finished(m.Status.Phase)
		if w.source.exists && !w.source.deleting && !over && !w.owner.blind {
			w.violated("the owner makes an extra pod")
		}
		w.owner.extra = true
	}
	w.owner.sees = w.ownerHas()
}

// simReplica is a pod of the owner, or one that it was released from.
func simReplica(release *Release) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: KindReplicaSet, Name: "owner", UID: "owner", Controller: &yes}}}}
	if release != nil {
		raw, err := json.Marshal(release)
		if err != nil {
			panic(err)
		}
		pod.Annotations = map[string]string{v1alpha1.AnnotationRelease: string(raw)}
		if !release.Returned {
			pod.OwnerReferences = nil
		}
	}
	return pod
}

func (w *world) ownerFacts() OwnerFacts {
	if w.owner == nil {
		return OwnerFacts{}
	}
	return OwnerFacts{Kind: KindReplicaSet, Name: "owner", Wants: 1, Has: w.ownerHas(),
		Released: w.source.exists && w.owner.released, Returned: w.source.exists && w.owner.returned}
}

// release, give back and settle are the manager's writes of the source pod.
func (w *world) ownerStep(a Action) func() {
	live := w.latest
	switch a {
	case ReleaseSource:
		return func() {
			m := live()
			if w.source.exists && !w.source.deleting && m.Status.Phase == v1alpha1.PhasePreCopying && m.Status.Handover == nil &&
				!CancelRequested(m) && ownerState(m) == v1alpha1.OwnerReleasing {
				w.owner.released = true
			}
		}
	case ReturnSource:
		return func() {
			if handover(live()) == v1alpha1.HandoverAborted && w.owner.released {
				w.owner.released, w.owner.returned = false, true
			}
		}
	case SettleSource:
		return func() { w.owner.returned = false }
	}
	return nil
}

// projectOwner is what the controller stores of the owner.
func (w *world) projectOwner(s *v1alpha1.MigrationStatus, a Action) {
	if w.owner == nil {
		return
	}
	if s.Owner == nil {
		s.Owner = &v1alpha1.OwnerStatus{Kind: KindReplicaSet, Name: "owner", UID: "owner", State: v1alpha1.OwnerAttached}
	}
	switch {
	case w.owner.released:
		s.Owner.State = v1alpha1.OwnerReleased
	case a == AnnounceRelease:
		s.Owner.State = v1alpha1.OwnerReleasing
	}
}

// checkOwner looks at what is left of a release when all is quiet.
func (w *world) checkOwner(phase v1alpha1.MigrationPhase) {
	if w.owner == nil || !w.source.exists {
		return
	}
	if w.owner.released || w.owner.returned {
		w.violated("%s, and the source is not its owner's again", phase)
	}
	if w.owner.extra {
		w.violated("%s, and there is another pod", phase)
	}
}
