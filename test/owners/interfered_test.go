// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// What happens to the owner while one of its pods moves.

func (f *fixture) scale(n int32) {
	f.Helper()
	body := fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)
	must(f.T, cluster.client.Patch(f.Context(), f.getDeployment(), client.RawPatch(types.MergePatchType, []byte(body))))
}

func (f *fixture) rollOut(image string) {
	f.Helper()
	d := f.getDeployment()
	d.Spec.Template.Spec.Containers[0].Image = image
	must(f.T, cluster.client.Update(f.Context(), d))
}

func TestRolloutBeforeTheMigrationIsWaitedFor(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(2)
	// Paused, it neither goes on nor is it done.
	d := f.getDeployment()
	d.Spec.Paused = true
	d.Spec.Template.Spec.Containers[0].Image = "app:v2"
	must(t, cluster.client.Update(t.Context(), d))
	f.migrate("m", pods[0].Name)
	f.await("m", "it to wait", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhasePending && strings.Contains(m.Status.Message, `Deployment "web" is being rolled out`)
	})
	d = f.getDeployment()
	d.Spec.Paused, d.Spec.Template.Spec.Containers[0].Image = false, "app:v1"
	must(t, cluster.client.Update(t.Context(), d))
	m := f.toSucceeded("m", runs)
	f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{pods[0].Name})
}

func TestRolloutThatBeginsMeanwhileEndsTheMigration(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(2)
	f.migrate("m", pods[0].Name)
	f.toTarget("m")
	f.rollOut("app:v2")
	m := f.rollsBack("m")
	if m.Status.Failure.Reason != v1alpha1.ReasonRolloutInProgress && m.Status.Failure.Reason != v1alpha1.ReasonTargetPodGone {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	// The rollout goes on as if nothing had been: it replaces the source too.
	eventually(t, "the rollout to end", func() (bool, string) {
		left := f.pods()
		for _, p := range left {
			if p.Spec.Containers[0].Image != "app:v2" || p.DeletionTimestamp != nil {
				return false, p.Name
			}
		}
		return len(left) == 2, fmt.Sprint(names(left))
	})
}

func TestScalingWhileReleased(t *testing.T) {
	t.Run("up", func(t *testing.T) {
		f := newFixture(t)
		pods := f.deployment(2)
		f.migrate("m", pods[0].Name)
		m := f.toTarget("m")
		f.scale(4)
		f.toSucceeded("m", runs)
		left := names(f.running(4))
		if slices.Contains(left, pods[0].Name) || !slices.Contains(left, m.Status.Target.PodName) {
			t.Errorf("left: %v", left)
		}
	})
	t.Run("down", func(t *testing.T) {
		f := newFixture(t)
		pods := f.deployment(3)
		f.migrate("m", pods[0].Name)
		f.toTarget("m")
		f.scale(2) // the target is the one that is not ready
		m := f.rollsBack("m")
		if m.Status.Failure.Reason != v1alpha1.ReasonTargetPodGone {
			t.Errorf("failure = %+v", m.Status.Failure)
		}
		left := names(f.running(2))
		if !slices.Contains(left, pods[0].Name) {
			t.Errorf("the source was removed; left: %v", left)
		}
		if got := f.pod(pods[0].Name); len(got.Annotations) != 0 || metav1.GetControllerOf(got) == nil {
			t.Errorf("the source is %+v", got.ObjectMeta)
		}
	})
}

func TestOwnerThatIsDeletedLeavesTheSource(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(2)
	f.migrate("m", pods[0].Name)
	f.toTarget("m")
	must(t, cluster.client.Delete(t.Context(), f.getDeployment(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
	m := f.rollsBack("m")
	if m.Status.Owner.State != v1alpha1.OwnerOrphaned {
		t.Errorf("owner = %+v, failure %+v", m.Status.Owner, m.Status.Failure)
	}
	eventually(t, "the others to go", func() (bool, string) {
		left := f.pods()
		return len(left) == 1 && left[0].UID == pods[0].UID && len(left[0].OwnerReferences) == 0 && len(left[0].Annotations) == 0, fmt.Sprint(names(left))
	})
}

func TestWebhookThatMissesTheReplacement(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(2)
	f.migrate("m", pods[0].Name)
	f.toPreCopying("m")
	// Nobody serves the webhooks: nothing is released.
	f.stop()
	f.stop = cluster.runManager(t, f.ns, false)
	f.source("m", v1alpha1.SourceConverged)
	f.await("m", "it to wait for the webhook", func(m *v1alpha1.Migration) bool {
		return strings.Contains(m.Status.Message, "admission webhook")
	})
	if got := f.pod(pods[0].Name); metav1.GetControllerOf(got) == nil {
		t.Fatal("the source was released, and nobody answers for the replacement")
	}
	// Released all the same, as if the webhook had gone right after it was asked.
	m := f.get("m")
	body, err := migration.ReleasePatch(f.pod(pods[0].Name), m, []string{appsv1.DefaultDeploymentUniqueLabelKey})
	must(t, err)
	f.asManager(func(manager client.Client) error {
		return manager.Patch(t.Context(), f.pod(pods[0].Name), client.RawPatch(types.JSONPatchType, body))
	})
	m = f.rollsBack("m")
	if m.Status.Failure.Reason != v1alpha1.ReasonReplacementNotSteered {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	f.givenBack(m, pods[0])
	if left := names(f.running(2)); !slices.Contains(left, pods[0].Name) || !slices.Contains(left, pods[1].Name) {
		t.Errorf("left: %v", left)
	}
}

// asManager does something with the manager's rights.
func (f *fixture) asManager(do func(client.Client) error) {
	f.Helper()
	manager, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	must(f.T, err)
	must(f.T, do(manager))
}

// A manager that stood still sends its release when another has ended the migration.
func TestReleaseThatComesTooLateIsUndone(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(2)
	f.migrate("m", pods[0].Name)
	f.toPreCopying("m")
	late, err := migration.ReleasePatch(f.pod(pods[0].Name), f.get("m"), []string{appsv1.DefaultDeploymentUniqueLabelKey})
	must(t, err)
	f.rollBack("m")
	f.asManager(func(manager client.Client) error {
		return manager.Patch(t.Context(), f.pod(pods[0].Name), client.RawPatch(types.JSONPatchType, late))
	})
	eventually(t, "the source to be given back", func() (bool, string) {
		now := f.pod(pods[0].Name)
		return now.UID == pods[0].UID && len(now.Annotations) == 0 && metav1.GetControllerOf(now) != nil, fmt.Sprintf("%+v", now.ObjectMeta)
	})
	f.nothingBut(names(pods), nil)
}

func TestBareReplicaSetKeepsItsService(t *testing.T) {
	f := newFixture(t)
	labels := map[string]string{"app": "web", "tier": "front"}
	must(t, cluster.client.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "web"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}))
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "web"},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}}
	must(t, cluster.client.Create(t.Context(), rs))
	pods := f.running(2)
	f.migrate("m", pods[0].Name)
	m := f.toTarget("m")
	if got := f.pod(pods[0].Name); got.Labels["app"] != "web" || got.Labels["tier"] == "front" {
		t.Errorf("labels = %v", got.Labels)
	}
	f.rollBack("m")
	f.givenBack(f.get("m"), pods[0])
	f.migrate("again", pods[0].Name)
	again := f.toSucceeded("again", runs)
	f.nothingBut(append(names(pods), m.Status.Target.PodName, again.Status.Target.PodName), []string{m.Status.Target.PodName, pods[0].Name})

	// Without a label of its own the pods cannot be told apart.
	must(t, cluster.client.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "both"},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}}}))
	f.migrate("refused", pods[1].Name)
	m = f.awaitPhase("refused", v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonOwnedPod {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
}

// A pod that only looks like a target is refused, whoever makes it.
func TestForgedTargetIsRefused(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(1)
	forged := func(change func(*corev1.Pod)) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "forged", Labels: map[string]string{v1alpha1.LabelMigration: "x"},
			Annotations: map[string]string{v1alpha1.AnnotationMigration: f.ns + "/m"}, OwnerReferences: pods[0].OwnerReferences},
			Spec: corev1.PodSpec{RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), Containers: []corev1.Container{{Name: "app", Image: "app:v1"}}}}
		if change != nil {
			change(pod)
		}
		return cluster.client.Create(t.Context(), pod, client.DryRunAll)
	}
	if err := forged(nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "target-pods.godwit.dev") {
		t.Errorf("forged: %v", err)
	}
	if err := forged(func(p *corev1.Pod) { p.OwnerReferences = nil }); !apierrors.IsForbidden(err) {
		t.Errorf("forged without an owner: %v", err)
	}
	f.migrate("m", pods[0].Name)
	f.toPreCopying("m")
	uid := string(f.get("m").UID)
	if err := forged(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelMigration] = uid }); !apierrors.IsForbidden(err) {
		t.Errorf("forged with a Migration that announces nothing: %v", err)
	}
}
