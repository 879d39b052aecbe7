// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// EvictionFacts is everything JudgeEviction looks at.
type EvictionFacts struct {
	// Now by the webhook's clock.
	Now time.Time
	// Pod of the name that is to be evicted; nil when there is none.
	Pod *corev1.Pod
	// UID that the eviction is for; empty when any pod of the name will do.
	UID types.UID
	// DryRun: nothing may come of the eviction.
	DryRun bool
	// Policy that holds for the pod.
	Policy Policy
	// Migrations that have a pod of this name on either side.
	Migrations []v1alpha1.Migration
	// NodeDrains: the pod's own node is being emptied.
	NodeDrains bool
	// Deadline by which the node has to be empty; zero when nobody has said.
	Deadline time.Time
	// Retries bound how often a pod is tried to be moved.
	Retries Retries
}

// Retries bound how often an evacuation is tried.
type Retries struct {
	// Budget is how many attempts may fail before BestEffort lets the pod go.
	Budget int
	// Backoff after the first failure; doubled with each further one, up to Cap.
	Backoff, Cap time.Duration
}

// DefaultRetries of the manager.
var DefaultRetries = Retries{Budget: 3, Backoff: 10 * time.Second, Cap: 5 * time.Minute}

// after is how long to wait after that many failures.
func (r Retries) after(failures int) time.Duration {
	d := r.Backoff
	for range failures - 1 {
		if d *= 2; d >= r.Cap {
			return r.Cap
		}
	}
	return min(d, r.Cap)
}

// justMoved is how long a pod that was moved under its own name is told from the one
// that whoever drains still wants to be rid of.
const justMoved = 2 * time.Minute

// EvictionAnswer is what an eviction is answered.
type EvictionAnswer string

const (
	// EvictionAllowed: Godwit has nothing to say against it.
	EvictionAllowed EvictionAnswer = "Allowed"
	// EvictionRetry: not now; whoever drains tries again (429).
	EvictionRetry EvictionAnswer = "Retry"
	// EvictionGone: the pod that is meant is gone (404).
	EvictionGone EvictionAnswer = "Gone"
)

// EvictionVerdict is the answer to an eviction.
type EvictionVerdict struct {
	Answer EvictionAnswer
	// Message for whoever drains: why not now, or a warning with what is allowed.
	Message string
	// Create is the Migration to create first; nil for none.
	Create *v1alpha1.Migration
}

// JudgeEviction answers an eviction.
func JudgeEviction(f EvictionFacts) EvictionVerdict {
	v := judgeEviction(f)
	if f.DryRun && v.Answer != EvictionAllowed {
		// A drain repeats what is answered 429, also in a dry run, and would never
		// come to its end.
		return EvictionVerdict{Answer: EvictionAllowed, Message: "dry run; the eviction would be answered: " + v.Message}
	}
	return v
}

// JudgeManager answers the eviction of the manager itself, which leaves a node last:
// without it the evictions of pods that are to be moved would take their usual course.
// elsewhere says that another replica answers on a node that stays; others are the
// evictions of the node's other pods.
func JudgeManager(dryRun, elsewhere bool, others []EvictionFacts) EvictionVerdict {
	if elsewhere || dryRun {
		return EvictionVerdict{Answer: EvictionAllowed}
	}
	for _, f := range others {
		if v := judgeEviction(f); v.Answer == EvictionRetry {
			return retry("Godwit's manager leaves the node when pod %q has left it: %s", podKey(f.Pod), v.Message)
		}
	}
	return EvictionVerdict{Answer: EvictionAllowed}
}

func judgeEviction(f EvictionFacts) EvictionVerdict {
	allowed := EvictionVerdict{Answer: EvictionAllowed}
	pod := f.Pod
	switch {
	case pod == nil, pod.DeletionTimestamp != nil, f.UID != "" && f.UID != pod.UID:
		// The API server has its own answers to these.
		return allowed
	case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return allowed
	}
	if m := movingFrom(pod, f.Migrations); m != nil {
		return retry("%s", underWay(pod, m))
	}
	if m := movingTo(pod, f.Migrations); m != nil {
		return retry("pod %q is what migration %s moves another pod to, %s; delete the Migration to cancel it", podKey(pod), m.Name, Progress(m))
	}
	if m := movedHere(f); m != nil {
		return EvictionVerdict{Answer: EvictionGone,
			Message: fmt.Sprintf("pod %q has left node %s: migration %s has moved it to %s", podKey(pod), sourceNode(m), m.Name, pod.Spec.NodeName)}
	}
	if f.Policy.Effective.Evacuation == v1alpha1.EvacuationNone || f.Policy.Effective.Evacuation == "" {
		return warn(f, allowed)
	}
	return judgeEvacuation(f)
}

// judgeEvacuation answers the eviction of a pod that is to be moved and that nobody
// moves yet.
func judgeEvacuation(f EvictionFacts) EvictionVerdict {
	pod := f.Pod
	if pod.Status.Phase != corev1.PodRunning {
		// Nothing has begun in it that could be lost.
		return EvictionVerdict{Answer: EvictionAllowed}
	}
	if refusals := CheckPod(pod); len(refusals) > 0 {
		return notMovable(f, Refusal(refusals))
	}
	h := historyOf(pod, f.Migrations)
	if h.refused != nil {
		if v := notMovable(f, h.refused); v.Answer == EvictionAllowed || f.Now.Before(h.last.Add(f.Retries.Cap)) {
			return v
		}
	}
	if h.failures >= f.Retries.Budget && f.Policy.Effective.Evacuation == v1alpha1.EvacuationBestEffort {
		return EvictionVerdict{Answer: EvictionAllowed,
			Message: fmt.Sprintf("pod %q is evicted: it could not be moved in %d attempts, lastly since %s", podKey(pod), h.failures, h.why)}
	}
	if h.ended > 0 {
		if wait := h.last.Add(f.Retries.after(max(1, h.failures))).Sub(f.Now); wait > 0 {
			return retry("the last of %d attempts to move pod %q has ended: %s; the next one begins in about %s", h.ended, podKey(pod), h.why, wait.Round(time.Second))
		}
	}
	m := NewEvacuation(pod, Hurry(f.Policy, f.Now, f.Deadline), h.ended, f.NodeDrains)
	v := retry("Eviction triggered evacuation of pod %q: migration %s", podKey(pod), m.Name)
	v.Create = m
	return warn(f, v)
}

func retry(format string, args ...any) EvictionVerdict {
	return EvictionVerdict{Answer: EvictionRetry, Message: fmt.Sprintf(format, args...)}
}

// notMovable answers for a pod that cannot be moved as it is.
func notMovable(f EvictionFacts, why *v1alpha1.Failure) EvictionVerdict {
	if f.Policy.Effective.Evacuation == v1alpha1.EvacuationBestEffort {
		return EvictionVerdict{Answer: EvictionAllowed, Message: fmt.Sprintf("pod %q is evicted: it cannot be moved (%s): %s", podKey(f.Pod), why.Reason, why.Message)}
	}
	return retry("pod %q has to be moved (evacuation Required), and cannot be (%s): %s", podKey(f.Pod), why.Reason, why.Message)
}

// warn adds what of the pod's marks was not understood.
func warn(f EvictionFacts, v EvictionVerdict) EvictionVerdict {
	for _, problem := range f.Policy.Effective.Ignored {
		if v.Message != "" {
			v.Message += "; "
		}
		v.Message += "not understood on pod " + podKey(f.Pod) + ": " + problem
	}
	return v
}

// history is what became of the attempts to evacuate a pod.
type history struct {
	// ended attempts; of them failures count against the budget.
	ended, failures int
	// last is when the last one ended, and why says how.
	last time.Time
	why  string
	// refused: the preflight on the node said that the pod cannot be moved as it is.
	refused *v1alpha1.Failure
}

func historyOf(pod *corev1.Pod, list []v1alpha1.Migration) history {
	var h history
	for i := range list {
		m := &list[i]
		if m.Labels[v1alpha1.LabelEvacuationOf] != string(pod.UID) || !Finished(m.Status.Phase) || m.Status.Phase == v1alpha1.PhaseSucceeded {
			continue
		}
		h.ended++
		if m.Status.Phase == v1alpha1.PhaseFailed {
			h.failures++
		}
		at := m.CreationTimestamp.Time
		if t := m.Status.CompletionTime; t != nil {
			at = t.Time
		}
		if h.ended > 1 && at.Before(h.last) {
			continue
		}
		h.last, h.why, h.refused = at, m.Status.Message, nil
		if s := m.Status.Source; s != nil && len(s.Refusals) > 0 {
			h.refused = Refusal(s.Refusals)
		}
	}
	return h
}

func podKey(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

func sourceNode(m *v1alpha1.Migration) string {
	if m.Status.Source == nil {
		return ""
	}
	return m.Status.Source.NodeName
}

// movingFrom is the unfinished Migration that has the pod as its source. A dry run
// moves nothing, and protects nothing.
func movingFrom(pod *corev1.Pod, list []v1alpha1.Migration) *v1alpha1.Migration {
	for i := range list {
		m := &list[i]
		if Finished(m.Status.Phase) || m.Spec.DryRun {
			continue
		}
		if s := m.Status.Source; s != nil && s.PodUID != "" {
			if s.PodUID == pod.UID {
				return m
			}
		} else if of := m.Labels[v1alpha1.LabelEvacuationOf]; m.Spec.PodName == pod.Name && (of == "" || of == string(pod.UID)) {
			return m
		}
	}
	return nil
}

// movingTo is the unfinished Migration that has the pod as its target.
func movingTo(pod *corev1.Pod, list []v1alpha1.Migration) *v1alpha1.Migration {
	for i := range list {
		m := &list[i]
		if Finished(m.Status.Phase) {
			continue
		}
		if t := m.Status.Target; t != nil && t.PodUID != "" {
			if t.PodUID == pod.UID {
				return m
			}
		} else if pod.Labels[v1alpha1.LabelMigration] == string(m.UID) {
			return m
		}
	}
	return nil
}

// movedHere is the Migration that has moved a pod here under its own name a moment
// ago. Whoever drains the node that it left knows it by that name only, and would
// evict it again where it is now.
func movedHere(f EvictionFacts) *v1alpha1.Migration {
	if f.NodeDrains || f.UID != "" {
		return nil
	}
	for i := range f.Migrations {
		m := &f.Migrations[i]
		t := m.Status.Target
		if m.Status.Phase != v1alpha1.PhaseSucceeded || m.Spec.PodName != f.Pod.Name || t == nil || t.PodUID != f.Pod.UID {
			continue
		}
		if at := m.Status.CompletionTime; at != nil && f.Now.Before(at.Add(justMoved)) {
			return m
		}
	}
	return nil
}
