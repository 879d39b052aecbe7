// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// event is an entry of the catalogue.
type event struct {
	eventType string
	// reason and action as in events.k8s.io/v1: what happened, and what was done.
	reason, action string
	// about says who hears of it.
	about audience
}

type audience uint8

const (
	theMigration audience = 1 << iota
	theSource
	theTarget

	thePods  = theSource | theTarget
	everyone = theMigration | thePods
)

// The catalogue: one event for each phase that is entered,
var phaseEvents = map[v1alpha1.MigrationPhase]event{
	v1alpha1.PhasePending:       {corev1.EventTypeNormal, "Accepted", "Accept", theMigration},
	v1alpha1.PhasePreparing:     {corev1.EventTypeNormal, "Preparing", "Preflight", theMigration},
	v1alpha1.PhasePreCopying:    {corev1.EventTypeNormal, "PreCopying", "PreCopy", theMigration | theSource},
	v1alpha1.PhaseSwitchingOver: {corev1.EventTypeNormal, "SwitchingOver", "Switchover", everyone},
	v1alpha1.PhaseReplacing:     {corev1.EventTypeNormal, "Replacing", "Replace", everyone},
	v1alpha1.PhaseCompleting:    {corev1.EventTypeNormal, "Completing", "Complete", everyone},
	v1alpha1.PhaseRollingBack:   {corev1.EventTypeWarning, "RollingBack", "RollBack", everyone},
	v1alpha1.PhaseSucceeded:     {corev1.EventTypeNormal, "Succeeded", "Finish", theMigration | theTarget},
	v1alpha1.PhaseFailed:        {corev1.EventTypeWarning, "Failed", "Finish", theMigration | theSource},
	v1alpha1.PhaseCancelled:     {corev1.EventTypeNormal, "Cancelled", "Finish", theMigration | theSource},
}

// and one for each key step within a phase. Where an agent tells the Migration
// of a step, only the pods hear of it from here.
var (
	targetPodCreated   = event{corev1.EventTypeNormal, "TargetPodCreated", "CreateTarget", theMigration | theTarget}
	targetPodScheduled = event{corev1.EventTypeNormal, "TargetPodScheduled", "CreateTarget", theMigration}
	targetReady        = event{corev1.EventTypeNormal, "TargetReady", "Park", theTarget}
	handedOver         = event{corev1.EventTypeNormal, "HandedOver", "Commit", thePods}
	handoverTakenBack  = event{corev1.EventTypeWarning, "HandoverTakenBack", "RollBack", thePods}
	targetLost         = event{corev1.EventTypeWarning, "TargetLost", "AwaitTarget", theMigration | theSource}
	targetFound        = event{corev1.EventTypeNormal, "TargetFound", "AwaitTarget", theMigration | theSource}
	resolutionAccepted = event{corev1.EventTypeWarning, "ResolutionAccepted", "Resolve", everyone}
	resolutionRefused  = event{corev1.EventTypeWarning, "ResolutionRefused", "Resolve", theMigration}
)

// maxNote is the longest note an event takes, in bytes.
const maxNote = 1024

// announce emits the events for what a stored status says and the one before
// it did not. Since each status is stored once, so is each event emitted.
func (r *MigrationReconciler) announce(before, after *v1alpha1.Migration) {
	say := func(e event, message string) {
		message = migration.Shorten(message, maxNote)
		source, target := podOf(after.Namespace, sourceOf(after)), podOf(after.Namespace, targetOf(after))
		if e.about&theMigration != 0 {
			r.Recorder.Eventf(after, related(source), e.eventType, e.reason, e.action, "%s", message)
		}
		if e.about&theSource != 0 && source != nil {
			r.Recorder.Eventf(source, after, e.eventType, e.reason, e.action, "%s", message)
		}
		if e.about&theTarget != 0 && target != nil {
			r.Recorder.Eventf(target, after, e.eventType, e.reason, e.action, "%s", message)
		}
	}
	was, is := targetOf(before), targetOf(after)
	if was.PodUID == "" && is.PodUID != "" {
		say(targetPodCreated, "created target pod "+is.PodName)
	}
	if was.NodeName == "" && is.NodeName != "" {
		say(targetPodScheduled, "target pod "+is.PodName+" goes to "+is.NodeName)
	}
	for _, step := range []struct {
		conditionType string
		event         event
	}{
		{v1alpha1.ConditionTargetReady, targetReady},
		{v1alpha1.ConditionHandedOver, handedOver},
	} {
		if becameTrue(before, after, step.conditionType) {
			say(step.event, meta.FindStatusCondition(after.Status.Conditions, step.conditionType).Message)
		}
	}
	if becameTrue(after, before, v1alpha1.ConditionHandedOver) {
		say(handoverTakenBack, meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionHandedOver).Message)
	}
	if becameTrue(before, after, v1alpha1.ConditionTargetLost) {
		say(targetLost, meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionTargetLost).Message)
	}
	if c := meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionTargetLost); c != nil && c.Reason == v1alpha1.ReasonTargetFound &&
		becameTrue(after, before, v1alpha1.ConditionTargetLost) {
		say(targetFound, c.Message)
	}
	if r := after.Status.Resolution; r != nil && (before.Status.Resolution == nil || !before.Status.Resolution.Time.Equal(&r.Time)) {
		e := resolutionRefused
		if r.Outcome == v1alpha1.ResolutionAccepted {
			e = resolutionAccepted
		}
		say(e, fmt.Sprintf("%s, asked for by %s: %s", r.Request, orUnknown(r.FieldManager), r.Message))
	}
	if before.Status.Phase != after.Status.Phase {
		if e, ok := phaseEvents[after.Status.Phase]; ok {
			say(e, after.Status.Message)
		}
	}
}

func orUnknown(manager string) string {
	if manager == "" {
		return "an unknown program"
	}
	return manager
}

// related keeps a nil pod from becoming an interface that is not nil.
func related(pod *corev1.Pod) runtime.Object {
	if pod == nil {
		return nil
	}
	return pod
}

func becameTrue(before, after *v1alpha1.Migration, conditionType string) bool {
	return meta.IsStatusConditionTrue(after.Status.Conditions, conditionType) &&
		!meta.IsStatusConditionTrue(before.Status.Conditions, conditionType)
}

func sourceOf(m *v1alpha1.Migration) v1alpha1.PodRef {
	if m.Status.Source == nil {
		return v1alpha1.PodRef{}
	}
	return m.Status.Source.PodRef
}

func targetOf(m *v1alpha1.Migration) v1alpha1.PodRef {
	if m.Status.Target == nil {
		return v1alpha1.PodRef{}
	}
	return m.Status.Target.PodRef
}

// podOf makes an object to hang an event on: the pod itself may be gone.
func podOf(namespace string, ref v1alpha1.PodRef) *corev1.Pod {
	if ref.PodUID == "" {
		return nil
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: ref.PodName, UID: ref.PodUID}}
}
