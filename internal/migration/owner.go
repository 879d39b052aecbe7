// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// revisionAnnotation numbers a Deployment's ReplicaSets; the Deployment has that of
// the one it wants.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// OwnerFacts is what the controller knows of the pod's workload controller. The
// zero value is that of a pod without one.
type OwnerFacts struct {
	// Kind and Name, for people; Kind is "" when there is none.
	Kind, Name string
	// Gone: it does not exist any more, or is being deleted.
	Gone bool
	// Changed: the source does not belong to it, and was not released from it by
	// this migration.
	Changed bool
	// Unsettled says why it cannot give up a pod now, for instance since it is being
	// rolled out; "" when it can.
	Unsettled string
	// Superseded: a rollout replaces its pods.
	Superseded bool
	// Revision of the StatefulSet that the source was made of.
	Revision string
	// Released: this migration has released the source. Returned: it was given back,
	// and is still marked so.
	Released, Returned bool
	// Wants is how many pods it wants (a Job with indexes: of the source's), Has how
	// many it has that have not ended.
	Wants, Has int
	// TargetUnmarked: of several pods that are not ready, the ReplicaSet may not
	// remove the target first.
	TargetUnmarked bool
	// TargetUncounted: the target lacks the finalizer without which its Job does not
	// count it.
	TargetUncounted bool
}

// owned says whether the pod has to be released before it can move.
func (f OwnerFacts) owned() bool { return f.Kind != "" }

func (f OwnerFacts) String() string { return fmt.Sprintf("%s %q", f.Kind, f.Name) }

// ReplicaSetFacts are the facts of a ReplicaSet, nil when it does not exist, and of
// its Deployment, nil when it has none that exists; pods are those of its namespace.
func ReplicaSetFacts(f OwnerFacts, rs *appsv1.ReplicaSet, d *appsv1.Deployment, pods []corev1.Pod) OwnerFacts {
	if rs == nil || rs.DeletionTimestamp != nil {
		f.Gone = true
		return f
	}
	f.Wants, f.Has = int(replicas(rs.Spec.Replicas)), activePods(pods, rs.UID, nil)
	switch {
	case rs.Status.ObservedGeneration < rs.Generation, rs.Status.Replicas != replicas(rs.Spec.Replicas):
		f.Unsettled = fmt.Sprintf("ReplicaSet %q is being scaled", rs.Name)
	case replicas(rs.Spec.Replicas) == 0:
		f.Unsettled = fmt.Sprintf("ReplicaSet %q is scaled to 0", rs.Name)
	}
	if d == nil {
		return f
	}
	if d.DeletionTimestamp != nil {
		f.Gone = true
		return f
	}
	f.Superseded = d.Annotations[revisionAnnotation] != rs.Annotations[revisionAnnotation]
	switch {
	case f.Superseded, d.Status.ObservedGeneration < d.Generation,
		d.Status.UpdatedReplicas != replicas(d.Spec.Replicas), d.Status.Replicas != d.Status.UpdatedReplicas:
		f.Unsettled = fmt.Sprintf("Deployment %q is being rolled out or scaled", d.Name)
	}
	return f
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// JobFacts are the facts of a Job, nil when it does not exist. The Job controller
// counts an Indexed Job's pods by index: source says which is meant.
func JobFacts(f OwnerFacts, job *batchv1.Job, source *corev1.Pod, pods []corev1.Pod) OwnerFacts {
	if job == nil || job.DeletionTimestamp != nil {
		f.Gone = true
		return f
	}
	var index *string
	if job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion {
		i := ""
		if source != nil {
			i = source.Annotations[batchv1.JobCompletionIndexAnnotation]
		}
		index = &i
	}
	f.Has = activePods(pods, job.UID, index)
	suspended := job.Spec.Suspend != nil && *job.Spec.Suspend
	switch {
	case suspended:
		f.Unsettled = fmt.Sprintf("Job %q is suspended", job.Name)
	case jobEnded(job):
		// Its controller looks after none of its pods any more.
		f.Unsettled, f.Wants = fmt.Sprintf("Job %q has ended", job.Name), f.Has
	case index != nil:
		f.Wants = 1
	default:
		f.Wants = wantedByJob(job, f.Has)
	}
	return f
}

// wantedByJob is the Job controller's own rule.
func wantedByJob(job *batchv1.Job, has int) int {
	parallelism := int(replicas(job.Spec.Parallelism))
	switch {
	case job.Spec.Completions != nil:
		return max(0, min(parallelism, int(*job.Spec.Completions-job.Status.Succeeded)))
	case job.Status.Succeeded > 0:
		return has // none is made any more, and none removed
	}
	return parallelism
}

func jobEnded(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		switch c.Type {
		case batchv1.JobComplete, batchv1.JobFailed, batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget:
			return c.Status == corev1.ConditionTrue
		}
		return false
	})
}

// activePods counts the pods that a controller counts as its own: those that have
// neither ended nor are being deleted.
func activePods(pods []corev1.Pod, owner types.UID, index *string) int {
	n := 0
	for i := range pods {
		p := &pods[i]
		ref := metav1.GetControllerOf(p)
		if ref == nil || ref.UID != owner || !active(p) {
			continue
		}
		if index != nil && p.Annotations[batchv1.JobCompletionIndexAnnotation] != *index {
			continue
		}
		n++
	}
	return n
}

func active(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// SourceOwner fills in what the source pod tells of its controller. The pod is nil
// when it does not exist.
func SourceOwner(m *v1alpha1.Migration, source, target *corev1.Pod) OwnerFacts {
	s := m.Status.Owner
	if s == nil {
		if source == nil {
			return OwnerFacts{}
		}
		ref := metav1.GetControllerOf(source)
		if ref == nil || !Movable(ref) {
			return OwnerFacts{}
		}
		return OwnerFacts{Kind: ref.Kind, Name: ref.Name, Revision: source.Labels[appsv1.ControllerRevisionHashLabelKey]}
	}
	f := OwnerFacts{Kind: s.Kind, Name: s.Name, Revision: s.Revision}
	if source != nil {
		r := ReleasedBy(source, m)
		ref := metav1.GetControllerOf(source)
		f.Returned = r != nil && r.Returned
		f.Released = r != nil && !r.Returned
		f.Changed = r == nil && (ref == nil || ref.UID != s.UID)
	}
	f.TargetUnmarked = s.Kind == KindReplicaSet && target != nil && target.DeletionTimestamp == nil &&
		target.Annotations[corev1.PodDeletionCost] != alwaysFirst
	f.TargetUncounted = s.Kind == KindJob && target != nil && target.DeletionTimestamp == nil &&
		!slices.Contains(target.Finalizers, batchv1.JobTrackingFinalizer)
	return f
}
