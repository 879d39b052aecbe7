// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestRegisterTransitions(t *testing.T) {
	f := newNamespace(t)
	committed := &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: digest, Time: *at(1)}
	aborted := &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "source/n1", Reason: v1alpha1.ReasonSwitchoverTimeout, Time: *at(2)}
	with := func(h *v1alpha1.Handover, change func(*v1alpha1.Handover)) *v1alpha1.Handover {
		h = h.DeepCopy()
		change(h)
		return h
	}
	const takesBack = "is taken back by the agent that made it"
	for name, tc := range map[string]struct {
		from, to *v1alpha1.Handover
		says     string
	}{
		"commit":              {nil, committed, ""},
		"abort":               {nil, aborted, ""},
		"take back":           {committed, with(aborted, func(h *v1alpha1.Handover) { h.By = committed.By }), ""},
		"source takes back":   {committed, aborted, takesBack},
		"other node's agent":  {committed, with(aborted, func(h *v1alpha1.Handover) { h.By = "target/n3" }), takesBack},
		"controller, lost":    {committed, with(aborted, func(h *v1alpha1.Handover) { h.By, h.Reason = writtenBy, v1alpha1.ReasonTargetNodeLost }), ""},
		"controller, timeout": {committed, with(aborted, func(h *v1alpha1.Handover) { h.By, h.Reason = writtenBy, v1alpha1.ReasonTimeout }), takesBack},
		"controller, silent":  {committed, with(aborted, func(h *v1alpha1.Handover) { h.By, h.Reason = writtenBy, "" }), takesBack},
		"source, lost":        {committed, with(aborted, func(h *v1alpha1.Handover) { h.Reason = v1alpha1.ReasonTargetNodeLost }), takesBack},
		"resolved by nobody":  {committed, with(aborted, func(h *v1alpha1.Handover) { h.By, h.Reason = writtenBy, v1alpha1.ReasonResolvedToSource }), "needs the accepted request"},
		"same commit again":   {committed, committed, ""},
		"same abort again":    {aborted, aborted, ""},
		"no digest":           {nil, with(committed, func(h *v1alpha1.Handover) { h.ManifestDigest = "" }), "a commit names the manifest"},
		"unknown state":       {nil, with(committed, func(h *v1alpha1.Handover) { h.State = "Perhaps" }), "handover.state"},
		"commit after abort":  {aborted, committed, "an aborted handover is final"},
		"other reason":        {aborted, with(aborted, func(h *v1alpha1.Handover) { h.Reason = "Other" }), "an aborted handover is final"},
		"other digest":        {committed, with(committed, func(h *v1alpha1.Handover) { h.ManifestDigest = "0" }), "can only be taken back"},
		"other committer":     {committed, with(committed, func(h *v1alpha1.Handover) { h.By = "target/n3" }), "can only be taken back"},
		"cleared after abort": {aborted, nil, "cannot be cleared"},
		"cleared after commit": {
			committed, nil, "cannot be cleared"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, GenerateName: "m-"}, Spec: v1alpha1.MigrationSpec{PodName: "redis"}}
			f.must(testClient.Create(f.ctx, m), "create")
			m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseSwitchingOver, Handover: tc.from}
			f.must(testClient.Status().Update(f.ctx, m), "the state before")
			m.Status.Handover = tc.to
			err := testClient.Status().Update(f.ctx, m)
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("err = %v, want it to say %q", err, tc.says)
			}
		})
	}
}

func TestRegisterCannotBeClearedWithTheWholeStatus(t *testing.T) {
	f := newNamespace(t)
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.targetReports("m", parkedReport(0))
	f.must(f.commit("m"), "commit")
	for name, body := range map[string]string{
		"removed": `[{"op":"remove","path":"/status"}]`,
		"emptied": `[{"op":"replace","path":"/status","value":{}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m"}}
			err := testClient.Status().Patch(f.ctx, m, client.RawPatch(types.JSONPatchType, []byte(body)))
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "cannot be cleared") {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// The agents' writes carry tests instead of a resourceVersion.
func TestRegisterHasOneWinner(t *testing.T) {
	f := newNamespace(t)
	for name, tc := range map[string]struct {
		first, second v1alpha1.HandoverState
	}{
		"commit, then abort": {v1alpha1.HandoverCommitted, v1alpha1.HandoverAborted},
		"abort, then commit": {v1alpha1.HandoverAborted, v1alpha1.HandoverCommitted},
		"two commits":        {v1alpha1.HandoverCommitted, v1alpha1.HandoverCommitted},
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, GenerateName: "m-"}, Spec: v1alpha1.MigrationSpec{PodName: "redis"}}
			f.must(testClient.Create(f.ctx, m), "create")
			m.Status.Phase = v1alpha1.PhaseSwitchingOver
			f.must(testClient.Status().Update(f.ctx, m), "a status")
			stale := m.DeepCopy()
			write := func(state v1alpha1.HandoverState) error {
				return f.writeRegister(m.Name, nil, v1alpha1.Handover{State: state, By: "target/n2", ManifestDigest: digest})
			}
			f.must(write(tc.first), "the first write")
			if err := write(tc.second); !apierrors.IsInvalid(err) {
				t.Errorf("the second write's error = %v", err)
			}
			// The controller's write carries the resourceVersion that it read.
			patch := client.MergeFromWithOptions(stale.DeepCopy(), client.MergeFromWithOptimisticLock{})
			stale.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: writtenBy, Time: *at(3)}
			if err := testClient.Status().Patch(f.ctx, stale, patch); !apierrors.IsConflict(err) {
				t.Errorf("the stale write's error = %v", err)
			}
			if got := f.get(m.Name).Status.Handover.State; got != tc.first {
				t.Errorf("the register holds %s", got)
			}
		})
	}
}

func TestTakingBackNeedsTheCommitter(t *testing.T) {
	f := newNamespace(t)
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.targetReports("m", parkedReport(0))
	f.must(f.commit("m"), "commit")
	takeBack := func(by string) error {
		body, err := json.Marshal([]map[string]any{
			{"op": "test", "path": "/status/handover/by", "value": by},
			{"op": "add", "path": "/status/handover", "value": v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: by, Time: *at(4)}},
		})
		f.must(err, "encode")
		return testClient.Status().Patch(f.ctx, &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m"}}, client.RawPatch(types.JSONPatchType, body))
	}
	if err := takeBack("target/n3"); !apierrors.IsInvalid(err) {
		t.Errorf("err = %v", err)
	}
	f.must(takeBack("target/n2"), "take back")
}

// The controller's two ways to take a commit back depend on what else is known.
func TestTheControllerTakesBackOnlyWhatItMay(t *testing.T) {
	f := newNamespace(t)
	const has, decided = "the target has run", "needs the accepted request"
	resolution := func(r v1alpha1.ResolveRequest, o v1alpha1.ResolutionOutcome) *v1alpha1.Resolution {
		return &v1alpha1.Resolution{Request: r, Outcome: o, Time: *at(1)}
	}
	ran := &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{State: v1alpha1.TargetRestored}}
	for name, tc := range map[string]struct {
		phase      v1alpha1.MigrationPhase
		target     *v1alpha1.TargetStatus
		resolution *v1alpha1.Resolution
		reason     string
		says       string
	}{
		"lost":                       {v1alpha1.PhaseSwitchingOver, nil, nil, v1alpha1.ReasonTargetNodeLost, ""},
		"lost, restoring":            {v1alpha1.PhaseSwitchingOver, &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{State: v1alpha1.TargetRestoring}}, nil, v1alpha1.ReasonTargetNodeLost, ""},
		"lost, restored":             {v1alpha1.PhaseSwitchingOver, ran, nil, v1alpha1.ReasonTargetNodeLost, has},
		"lost, was restored":         {v1alpha1.PhaseSwitchingOver, &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{State: v1alpha1.TargetFailed, RestoredAt: at(1)}}, nil, v1alpha1.ReasonTargetNodeLost, has},
		"lost, started":              {v1alpha1.PhaseSwitchingOver, &v1alpha1.TargetStatus{StartedAt: at(1)}, nil, v1alpha1.ReasonTargetNodeLost, has},
		"lost, confirmed":            {v1alpha1.PhaseCompleting, nil, nil, v1alpha1.ReasonTargetNodeLost, "once the target is confirmed"},
		"decided":                    {v1alpha1.PhaseSwitchingOver, ran, resolution(v1alpha1.ResolveSource, v1alpha1.ResolutionAccepted), v1alpha1.ReasonResolvedToSource, ""},
		"decided by force":           {v1alpha1.PhaseSwitchingOver, ran, resolution(v1alpha1.ResolveForceSource, v1alpha1.ResolutionAccepted), v1alpha1.ReasonResolvedToSource, ""},
		"refused":                    {v1alpha1.PhaseSwitchingOver, ran, resolution(v1alpha1.ResolveSource, v1alpha1.ResolutionRefused), v1alpha1.ReasonResolvedToSource, decided},
		"decided for the target":     {v1alpha1.PhaseSwitchingOver, ran, resolution(v1alpha1.ResolveTarget, v1alpha1.ResolutionAccepted), v1alpha1.ReasonResolvedToSource, decided},
		"decided, but was confirmed": {v1alpha1.PhaseCompleting, ran, resolution(v1alpha1.ResolveForceSource, v1alpha1.ResolutionAccepted), v1alpha1.ReasonResolvedToSource, "once the target is confirmed"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, GenerateName: "m-"}, Spec: v1alpha1.MigrationSpec{PodName: "redis"}}
			f.must(testClient.Create(f.ctx, m), "create")
			m.Status = v1alpha1.MigrationStatus{Phase: tc.phase, Target: tc.target,
				Handover: &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: digest, Time: *at(1)}}
			f.must(testClient.Status().Update(f.ctx, m), "the state before")
			m.Status.Resolution = tc.resolution
			m.Status.Phase = v1alpha1.PhaseRollingBack
			m.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: writtenBy, Reason: tc.reason, Time: *at(2)}
			err := testClient.Status().Update(f.ctx, m)
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("err = %v, want it to say %q", err, tc.says)
			}
		})
	}
}
