// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"context"
	"fmt"
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// job makes a Job that forgives nothing, and returns its pods when all run.
func (f *fixture) job(indexed bool, parallelism, completions int32) []corev1.Pod {
	f.Helper()
	spec := batchv1.JobSpec{Parallelism: &parallelism, Completions: &completions, BackoffLimit: ptr.To(int32(0)), Template: template(map[string]string{"app": "batch"})}
	spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if indexed {
		spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	}
	must(f.T, cluster.client.Create(f.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "batch"}, Spec: spec}))
	return f.running(int(parallelism))
}

func (f *fixture) getJob() *batchv1.Job {
	f.Helper()
	job := &batchv1.Job{}
	must(f.T, cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: "batch"}, job))
	return job
}

// jobCounts waits until the Job's controller has counted.
func (f *fixture) jobCounts(active, succeeded, failed int32) {
	f.Helper()
	eventually(f.T, fmt.Sprintf("%d active, %d succeeded, %d failed", active, succeeded, failed), func() (bool, string) {
		s := f.getJob().Status
		if s.Failed > failed {
			f.Fatalf("a failure was counted: %+v", s)
		}
		return s.Active == active && s.Succeeded == succeeded && s.Failed == failed, fmt.Sprintf("%+v", s)
	})
}

func succeeds(ctx context.Context, pod *corev1.Pod) error {
	return ends(ctx, pod, corev1.PodSucceeded, 0)
}

func TestPodOfAJobMovesAndIsCounted(t *testing.T) {
	for name, indexed := range map[string]bool{"any": false, "indexed": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pods := f.job(indexed, 2, 2)
			source := pods[1]
			f.migrate("m", source.Name)
			m := f.toTarget("m")
			target := f.pod(m.Status.Target.PodName)
			if target.Annotations[batchv1.JobCompletionIndexAnnotation] != source.Annotations[batchv1.JobCompletionIndexAnnotation] {
				t.Errorf("the target's index is %q", target.Annotations[batchv1.JobCompletionIndexAnnotation])
			}
			if slices.Contains(target.Finalizers, batchv1.JobTrackingFinalizer) {
				t.Error("the Job counts a target that is not confirmed")
			}
			if released := f.pod(source.Name); len(released.Finalizers) != 0 || len(released.OwnerReferences) != 0 {
				t.Errorf("released = %+v", released.ObjectMeta)
			}
			f.toSucceeded("m", runs)
			f.jobCounts(2, 0, 0)
			for _, p := range f.running(2) {
				f.retry(func() error { return succeeds(f.Context(), f.pod(p.Name)) })
			}
			f.jobCounts(0, 2, 0)
			f.nothingBut(append(names(pods), target.Name), []string{source.Name})
		})
	}
}

// The moved pod ends before anybody has told the Job of it.
func TestJobsPodThatEndsAtOnceIsCounted(t *testing.T) {
	f := newFixture(t)
	pods := f.job(true, 1, 1)
	f.migrate("m", pods[0].Name)
	m := f.toSucceeded("m", succeeds)
	f.jobCounts(0, 1, 0)
	f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{pods[0].Name})
}

func TestRollbackOfAJobsPodCountsNothing(t *testing.T) {
	for name, indexed := range map[string]bool{"any": false, "indexed": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pods := f.job(indexed, 2, 3)
			f.migrate("m", pods[0].Name)
			m := f.toSwitchingOver("m")
			// The parked create is given back: with restartPolicy Never kubelet calls
			// that the pod's failure.
			f.cancel("m")
			f.awaitPhase("m", v1alpha1.PhaseRollingBack)
			f.retry(func() error { return ends(f.Context(), f.pod(m.Status.Target.PodName), corev1.PodFailed, 128) })
			f.settle()
			m = f.rollsBack("m")
			f.givenBack(m, pods[0])
			f.jobCounts(2, 0, 0)
			f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
			if m.Status.Phase != v1alpha1.PhaseCancelled {
				t.Errorf("%s: %+v", m.Status.Phase, m.Status.Failure)
			}
		})
	}
}

// The source ends while it is nobody's.
func TestJobsPodThatEndsWhileReleasedIsCounted(t *testing.T) {
	f := newFixture(t)
	pods := f.job(false, 1, 1)
	f.migrate("m", pods[0].Name)
	f.toTarget("m")
	f.retry(func() error { return succeeds(f.Context(), f.pod(pods[0].Name)) })
	m := f.rollsBack("m")
	f.jobCounts(0, 1, 0)
	f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
}
