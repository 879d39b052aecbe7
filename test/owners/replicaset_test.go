// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:v1"}}}}
}

// deployment makes one, with a Service and a budget for its pods, and returns its
// pods when all run.
func (f *fixture) deployment(n int32) []corev1.Pod {
	f.Helper()
	labels := map[string]string{"app": "web"}
	must(f.T, cluster.client.Create(f.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "web"},
		Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80}}}}))
	must(f.T, cluster.client.Create(f.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, MinAvailable: ptr.To(intstr.FromInt32(n - 1))}}))
	must(f.T, cluster.client.Create(f.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}}))
	pods := f.running(int(n))
	eventually(f.T, "the Deployment to be done", func() (bool, string) {
		d := f.getDeployment()
		return d.Status.AvailableReplicas == n && d.Status.UpdatedReplicas == n && d.Status.ObservedGeneration == d.Generation, fmt.Sprintf("%+v", d.Status)
	})
	return pods
}

func (f *fixture) getDeployment() *appsv1.Deployment {
	f.Helper()
	d := &appsv1.Deployment{}
	must(f.T, cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: "web"}, d))
	return d
}

// running waits until n pods run and there are no others.
func (f *fixture) running(n int) []corev1.Pod {
	f.Helper()
	var pods []corev1.Pod
	eventually(f.T, fmt.Sprintf("%d running pods", n), func() (bool, string) {
		pods = f.pods()
		pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, canary) })
		for _, p := range pods {
			if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
				return false, p.Name + " is " + string(p.Status.Phase)
			}
		}
		return len(pods) == n, fmt.Sprint(len(pods))
	})
	return pods
}

// canary begins the names of pods that nobody counts.
const canary = "canary-"

// settle waits until the controllers have seen what there is now: a ReplicaSet that
// is made after everything else has its pod.
func (f *fixture) settle() {
	f.Helper()
	labels := map[string]string{"canary": rand.String(6)}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: canary + labels["canary"]},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}}
	must(f.T, cluster.client.Create(f.Context(), rs))
	eventually(f.T, "the controllers to have caught up", func() (bool, string) {
		must(f.T, cluster.client.Get(f.Context(), client.ObjectKeyFromObject(rs), rs))
		return rs.Status.ReadyReplicas == 1 && rs.Status.ObservedGeneration == rs.Generation, fmt.Sprintf("%+v", rs.Status)
	})
	must(f.T, cluster.client.Delete(f.Context(), rs, client.PropagationPolicy(metav1.DeletePropagationBackground)))
}

func names(pods []corev1.Pod) []string {
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return names
}

// endpoints are the ready endpoints of the Service, by pod.
func (f *fixture) endpoints() map[string]bool {
	f.Helper()
	var list discoveryv1.EndpointSliceList
	must(f.T, cluster.client.List(f.Context(), &list, client.InNamespace(f.ns)))
	ready := map[string]bool{}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.TargetRef != nil && e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready[e.TargetRef.Name] = true
			}
		}
	}
	return ready
}

func TestPodOfADeploymentMoves(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(3)
	source := pods[1]
	f.migrate("m", source.Name)
	m := f.toTarget("m")

	target := f.pod(m.Status.Target.PodName)
	if target.Name != migration.TargetPodName(m) || m.Status.Owner == nil || m.Status.Owner.State != v1alpha1.OwnerReleased {
		t.Errorf("target %s, owner %+v", target.Name, m.Status.Owner)
	}
	if ref := metav1.GetControllerOf(target); ref == nil || ref.UID != metav1.GetControllerOf(&source).UID {
		t.Errorf("the target's owners are %+v", target.OwnerReferences)
	}
	if len(target.Spec.InitContainers) != 1 || *target.Spec.RuntimeClassName != v1alpha1.RuntimeClassName || target.Spec.Hostname != source.Name ||
		target.Spec.Containers[0].Image != "registry.example/app@sha256:"+digest {
		t.Errorf("target = %+v", target.Spec)
	}
	if hash := target.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; hash != source.Labels[appsv1.DefaultDeploymentUniqueLabelKey] {
		t.Errorf("the target's hash is %q", hash)
	}
	released := f.pod(source.Name)
	if len(released.OwnerReferences) != 0 || released.Labels["app"] != "web" || released.UID != source.UID {
		t.Errorf("released = %+v", released.ObjectMeta)
	}
	if _, ok := target.Annotations[v1alpha1.AnnotationRelease]; ok {
		t.Error("the target is marked as released")
	}
	if ready := f.endpoints(); !ready[source.Name] || ready[target.Name] || len(ready) != 3 {
		t.Errorf("endpoints while the source runs: %v", ready)
	}
	f.toSucceeded("m", runs)
	left := f.running(3)
	if slices.Contains(names(left), source.Name) || !slices.Contains(names(left), target.Name) {
		t.Errorf("left: %v", names(left))
	}
	f.nothingBut(append(names(pods), target.Name), []string{source.Name})
	d := f.getDeployment()
	if d.Status.Replicas != 3 || d.Status.UpdatedReplicas != 3 || d.Status.ObservedGeneration != 1 {
		t.Errorf("Deployment = %+v", d.Status)
	}

	// And again, from where it is now.
	f.migrate("again", target.Name)
	m = f.toSucceeded("again", runs)
	if got := f.pod(m.Status.Target.PodName); len(got.Spec.InitContainers) != 1 || got.Spec.Hostname != source.Name {
		t.Errorf("second target = %+v", got.Spec)
	}
	f.nothingBut(append(names(pods), target.Name, m.Status.Target.PodName), []string{source.Name, target.Name})
}

func TestRollbackGivesThePodBack(t *testing.T) {
	for name, restart := range map[string]bool{"": false, "with restarts of the manager": true} {
		t.Run("rollback "+name, func(t *testing.T) {
			f := newFixture(t)
			pods := f.deployment(3)
			source := pods[0]
			f.migrate("m", source.Name)
			m := f.toSwitchingOver("m")
			if restart {
				f.restart()
			}
			f.cancel("m")
			f.awaitPhase("m", v1alpha1.PhaseRollingBack)
			if restart {
				f.restart()
			}
			m2 := f.rollsBack("m")
			f.givenBack(m2, source)
			f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
		})
	}
}

// givenBack checks that a source is exactly what it was.
func (f *fixture) givenBack(m *v1alpha1.Migration, was corev1.Pod) {
	f.Helper()
	now := f.pod(was.Name)
	if now.UID != was.UID || now.DeletionTimestamp != nil {
		f.Errorf("the source is %+v", now)
	}
	if !maps.Equal(now.Labels, was.Labels) || !maps.Equal(now.Annotations, was.Annotations) ||
		!equality.Semantic.DeepEqual(now.OwnerReferences, was.OwnerReferences) || !slices.Equal(now.Finalizers, was.Finalizers) {
		f.Errorf("the source is %+v %+v %+v %v,\nwas %+v %+v %+v %v", now.Labels, now.Annotations, now.OwnerReferences, now.Finalizers,
			was.Labels, was.Annotations, was.OwnerReferences, was.Finalizers)
	}
	if m.Status.Owner == nil || m.Status.Owner.State != v1alpha1.OwnerRestored {
		f.Errorf("owner = %+v", m.Status.Owner)
	}
}

func TestTwoPodsOfOneReplicaSetMoveAtOnce(t *testing.T) {
	f := newFixture(t)
	pods := f.deployment(4)
	var targets []string
	for i, name := range []string{"a", "b", "c"} {
		f.migrate(name, pods[i].Name)
		f.toPreCopying(name)
	}
	for _, name := range []string{"a", "b", "c"} {
		f.source(name, v1alpha1.SourceConverged) // all at the same moment
	}
	for i, name := range []string{"a", "b", "c"} {
		m := f.toSwitchingOver(name)
		target := f.pod(m.Status.Target.PodName)
		if target.Spec.Hostname != pods[i].Name || target.Labels[v1alpha1.LabelMigration] != string(m.UID) {
			t.Errorf("the target of %s is %s: %+v", name, target.Name, target.Spec)
		}
		targets = append(targets, target.Name)
	}
	f.toSucceeded("a", runs)
	f.rollBack("b")
	f.toSucceeded("c", runs)
	f.running(4)
	f.nothingBut(append(names(pods), targets...), []string{pods[0].Name, targets[1], pods[2].Name})
}
