// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
)

// used marks the container "app" of pod "pod" as one that has run what was restored.
func (r *parkingRig) used(confirmed bool) {
	r.t.Helper()
	h, err := wire.TakeHold(r.dir, &wire.Request{PodUID: "pod", ContainerName: "app", ContainerID: "c1"})
	must(r.t, err)
	must(r.t, h.Ordered())
	must(r.t, h.Restored(&wire.Result{PID: 1}))
	must(r.t, h.Release())
	if confirmed {
		must(r.t, wire.Confirm(r.dir, "pod"))
	}
}

// A container whose set was used starts from its image only when its source is
// out of the game; what the cache shows is not enough to refuse it.
func TestAUsedSetStartsAfreshOnlyWhenTheTargetIsConfirmed(t *testing.T) {
	for name, tc := range map[string]struct {
		cached, live v1alpha1.MigrationPhase
		handover     v1alpha1.HandoverState
		treeGone     bool
		want         wire.Verdict
	}{
		"switching over":               {v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseSwitchingOver, v1alpha1.HandoverCommitted, false, wire.Fail},
		"switching over, tree is gone": {v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseSwitchingOver, v1alpha1.HandoverCommitted, true, wire.Fail},
		"confirmed":                    {v1alpha1.PhaseCompleting, v1alpha1.PhaseCompleting, v1alpha1.HandoverCommitted, false, wire.Pass},
		"confirmed, the cache is old":  {v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseCompleting, v1alpha1.HandoverCommitted, false, wire.Pass},
		"succeeded":                    {v1alpha1.PhaseSucceeded, v1alpha1.PhaseSucceeded, v1alpha1.HandoverCommitted, false, wire.Pass},
		"the source goes on":           {v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseRollingBack, v1alpha1.HandoverAborted, false, wire.Fail},
		"both were deleted":            {v1alpha1.PhaseFailed, v1alpha1.PhaseFailed, v1alpha1.HandoverCommitted, false, wire.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			at := func(phase v1alpha1.MigrationPhase) *v1alpha1.Migration {
				m := migrating()
				m.Status.Phase, m.Status.Handover = phase, &v1alpha1.Handover{State: tc.handover}
				m.Status.Target.State = v1alpha1.TargetRestored
				if tc.treeGone {
					m.Status.Target.TreeGoneAt = microTime(clock)
				}
				return m
			}
			r := newParkingRig(t, at(tc.cached))
			r.p.agent.Live = newParkingRig(t, at(tc.live)).p.agent.Client
			r.used(false)
			if _, _, reply := r.ask(wire.Request{ContainerID: "c2"}); reply.Verdict != tc.want {
				t.Errorf("answered %+v", reply)
			}
			// What was confirmed is known on the node, also when no agent is there.
			if mark, _, err := wire.Mark(r.dir, "pod", "app"); err != nil || mark.Confirmed != (tc.want == wire.Pass) {
				t.Errorf("mark %+v, %v", mark, err)
			}
		})
	}
}

// When its Migration was removed by force, its source may have gone on.
func TestAUsedSetWithoutAMigration(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		r := newParkingRig(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app-2", UID: "pod"},
			Spec:       corev1.PodSpec{NodeName: "n2", InitContainers: []corev1.Container{{Name: v1alpha1.GateContainerName}}},
		})
		r.used(confirmed)
		_, _, reply := r.ask(wire.Request{ContainerID: "c2"})
		if want := map[bool]wire.Verdict{false: wire.Fail, true: wire.Pass}[confirmed]; reply.Verdict != want {
			t.Errorf("confirmed %v: answered %+v", confirmed, reply)
		}
	}
}

// The mark of a container that may have run went with a restart of its node.
func TestALostTreeIsNeitherRestoredAgainNorReplaced(t *testing.T) {
	m := migrating()
	m.Status.Phase, m.Status.Handover = v1alpha1.PhaseSwitchingOver, &v1alpha1.Handover{State: v1alpha1.HandoverCommitted}
	m.Status.Target.TreeGoneAt = microTime(clock)
	r := newParkingRig(t, m)
	if _, _, reply := r.ask(wire.Request{ContainerID: "c2"}); reply.Verdict != wire.Fail || !strings.Contains(reply.Message, "its source is kept") {
		t.Errorf("answered %+v", reply)
	}
}

// The cache may show a commit that was taken back: then the source runs.
func TestAStaleCommitRestoresNothing(t *testing.T) {
	at := func(state v1alpha1.HandoverState) *v1alpha1.Migration {
		m := migrating()
		m.UID, m.Status.Phase = "m", v1alpha1.PhaseSwitchingOver
		m.Status.Handover = &v1alpha1.Handover{State: state}
		return m
	}
	r := newParkingRig(t, at(v1alpha1.HandoverCommitted))
	r.p.agent.Live = newParkingRig(t, at(v1alpha1.HandoverAborted)).p.agent.Client
	r.ask(wire.Request{ContainerID: "c1"})
	s := &targetSession{podUID: "pod", containers: []string{"app"},
		sessionBase: sessionBase{Agent: r.p.agent, session: &session{wake: make(chan struct{}, 1)}, uid: "m", key: types.NamespacedName{Namespace: "default", Name: "m"}}}
	s.report.RestoreStartedAt = microTime(clock)
	s.report.Containers = []v1alpha1.TargetContainerStatus{{Name: "app", ContainerID: "c1"}}
	// It waits for the cache, which never comes to know here.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.restore(ctx, at(v1alpha1.HandoverCommitted), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("restore: %v", err)
	}
	if l := r.lot(); l == nil || !l.waits() {
		t.Errorf("the create was told something: %+v", l)
	}
}
