// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// disk makes a claim that one node at a time can have, bound to a volume that can be
// attached to the given nodes.
func (f *fixture) disk(name string, nodes ...string) {
	f.Helper()
	capacity := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: f.ns + "-" + name}, Spec: corev1.PersistentVolumeSpec{AccessModes: modes, Capacity: capacity,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example", VolumeHandle: name}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: nodes}}}}}}}}
	must(f.T, cluster.client.Create(f.Context(), volume))
	f.Cleanup(func() { _ = cluster.client.Delete(f.Context(), volume) })
	must(f.T, cluster.client.Create(f.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: volume.Name, Resources: corev1.VolumeResourceRequirements{Requests: capacity}}}))
}

// podWithDisk runs a pod of no controller on n1, with a claim of its own.
func (f *fixture) podWithDisk(nodes ...string) *corev1.Pod {
	f.Helper()
	f.disk("data", nodes...)
	t := template(map[string]string{"app": "db"})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "db", Labels: t.Labels, Annotations: map[string]string{"kept": "yes"}}, Spec: t.Spec}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	// A server that has just started does not know yet what the policy looks at.
	f.retry(func() error { return cluster.client.Create(f.Context(), pod) })
	eventually(f.T, "the pod to run", func() (bool, string) {
		pod = f.pod("db")
		return pod.Status.Phase == corev1.PodRunning, string(pod.Status.Phase)
	})
	return pod
}

func (f *fixture) handOver(name, pod string) {
	f.Helper()
	must(f.T, cluster.client.Create(f.Context(), &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name},
		Spec: v1alpha1.MigrationSpec{PodName: pod, VolumePolicy: v1alpha1.VolumePolicyHandoff}}))
}

// withDisk gives a StatefulSet's pod the claim “data”.
func withDisk(s *appsv1.StatefulSet) {
	spec := &s.Spec.Template.Spec
	spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
}

func claimOf(pod *corev1.Pod, volume string) string {
	for _, v := range pod.Spec.Volumes {
		if v.Name == volume && v.PersistentVolumeClaim != nil {
			return v.PersistentVolumeClaim.ClaimName
		}
	}
	return ""
}

// A pod of no controller keeps its name, and its volume follows it.
func TestBarePodIsMadeAgain(t *testing.T) {
	f := newFixture(t)
	source := f.podWithDisk("n1", "n2")
	f.handOver("m", "db")
	m := f.toSwitchingOver("m")
	placeholder := f.pod(m.Status.Target.PodName)
	if m.Status.Handoff != v1alpha1.HandoffSameName || m.Status.Owner != nil || m.Status.Placeholder == nil || m.Status.Placeholder.PodUID != placeholder.UID {
		t.Errorf("status = %+v", m.Status)
	}
	if claimOf(placeholder, "data") != "" || !maps.Equal(placeholder.Labels, map[string]string{v1alpha1.LabelMigration: string(m.UID)}) {
		t.Errorf("the placeholder = %+v", placeholder)
	}
	m = f.toReplaced("m")
	target := f.pod("db")
	if target.UID == source.UID || target.UID != m.Status.Target.PodUID || target.Spec.NodeName != "n2" || len(target.OwnerReferences)+len(target.Finalizers) != 0 {
		t.Errorf("target %+v, status %+v", target.ObjectMeta, m.Status.Target)
	}
	if target.Labels["app"] != "db" || target.Annotations["kept"] != "yes" || claimOf(target, "data") != "data" || target.Spec.Hostname != "db" || *target.Spec.RuntimeClassName != v1alpha1.RuntimeClassName {
		t.Errorf("target = %+v", target)
	}
	m = f.restored("m")
	if d := m.Status.Downtime; d == nil || d.Replace == nil || d.Total.Duration != d.FreezeAndDump.Duration+d.Handover.Duration+d.Replace.Duration+d.Restore.Duration {
		t.Errorf("downtime = %+v", d)
	}
	f.nothingBut([]string{"db", placeholder.Name, "db"}, []string{"db", placeholder.Name})

	// And again, from where it is now.
	f.handOver("again", "db")
	m = f.toReplaced("again")
	f.restored("again")
	if got := f.pod("db"); claimOf(got, "data") != "data" || len(got.Spec.InitContainers) != 1 || got.UID == target.UID || got.Labels["app"] != "db" {
		t.Errorf("second target = %+v", got)
	}
	second := m.Status.Placeholder.PodName
	f.nothingBut([]string{"db", placeholder.Name, "db", second, "db"}, []string{"db", placeholder.Name, "db", second})
}

// Between the removal of the source and its return the manager is away, and a person
// removes the placeholder. What the pod was is known all the same, and nobody else gets
// its name.
func TestBarePodIsMadeAgainByAnotherManager(t *testing.T) {
	f := newFixture(t)
	source := f.podWithDisk("n1", "n2")
	f.handOver("m", "db")
	m := f.toSwitchingOver("m")
	f.source("m", v1alpha1.SourceDumped)
	f.stop()
	f.commit("m")
	must(t, cluster.client.Delete(t.Context(), f.pod("db")))
	must(t, cluster.client.Delete(t.Context(), f.pod(m.Status.Placeholder.PodName)))
	eventually(t, "the source to be gone", func() (bool, string) { return !f.exists(m.Status.Source.PodRef), "there" })
	if p := f.pod(m.Status.Placeholder.PodName); p.DeletionTimestamp == nil {
		t.Errorf("the placeholder is %+v", p.ObjectMeta)
	}
	mine := func(name string) *corev1.Pod {
		tmpl := template(map[string]string{"app": "db"})
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name, Labels: tmpl.Labels}, Spec: tmpl.Spec}
	}
	if err := cluster.client.Create(t.Context(), mine("db")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "this one would start afresh") {
		t.Errorf("a pod of the name: %v", err)
	}
	must(t, cluster.client.Create(t.Context(), mine("db2")))
	f.restart()
	m = f.againThere("m")
	target := f.pod("db")
	if target.UID == source.UID || claimOf(target, "data") != "data" || target.Annotations["kept"] != "yes" {
		t.Errorf("target = %+v", target)
	}
	f.restart()
	f.restored("m")
	f.nothingBut([]string{"db", "db2", m.Status.Placeholder.PodName, "db"}, []string{"db", m.Status.Placeholder.PodName})
	// The name is anybody's again.
	must(t, cluster.client.Delete(t.Context(), f.pod("db")))
	eventually(t, "a pod of the name to be let in", func() (bool, string) {
		err := cluster.client.Create(t.Context(), mine("db"))
		return err == nil, fmt.Sprint(err)
	})
}

// A pod that was made again and is deleted before its restore was ordered is made once more.
func TestBarePodIsMadeOnceMore(t *testing.T) {
	f := newFixture(t)
	f.podWithDisk("n1", "n2")
	f.handOver("m", "db")
	m := f.toReplaced("m")
	eventually(t, "the placeholder to make room", func() (bool, string) {
		p := f.pod(m.Status.Placeholder.PodName)
		return p.DeletionTimestamp != nil, fmt.Sprintf("%+v", p.ObjectMeta)
	})
	first := m.Status.Target.PodUID
	must(t, client.IgnoreNotFound(cluster.client.Delete(t.Context(), f.pod("db"))))
	m = f.await("m", "the next pod", func(m *v1alpha1.Migration) bool {
		return m.Status.Target.PodUID != first || slices.ContainsFunc(m.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == v1alpha1.ConditionTargetLost && c.Status == metav1.ConditionTrue
		})
	})
	if m.Status.Target.PodUID == first {
		t.Fatalf("it is lost: %s", m.Status.Message)
	}
	f.restored("m")
	f.nothingBut([]string{"db", m.Status.Placeholder.PodName, "db", "db"}, []string{"db", "db", m.Status.Placeholder.PodName})
}

func TestBarePodIsRolledBack(t *testing.T) {
	f := newFixture(t)
	source := f.podWithDisk("n1", "n2")
	f.handOver("m", "db")
	m := f.toSwitchingOver("m")
	// A placeholder that a person removes ends the migration.
	must(t, cluster.client.Delete(t.Context(), f.pod(m.Status.Placeholder.PodName)))
	m2 := f.rollsBack("m")
	if m2.Status.Failure == nil || m2.Status.Failure.Reason != v1alpha1.ReasonTargetPodGone {
		t.Errorf("failure %+v", m2.Status.Failure)
	}
	if now := f.pod("db"); now.UID != source.UID || now.DeletionTimestamp != nil {
		t.Errorf("the source is %+v", now.ObjectMeta)
	}
	f.nothingBut([]string{"db", m.Status.Target.PodName}, []string{m.Status.Target.PodName})
}

// Where the volume cannot be attached there is nothing to begin.
func TestVolumeThatCanBeAttachedNowhereElse(t *testing.T) {
	f := newFixture(t)
	f.podWithDisk("n1", "n7")
	f.handOver("m", "db")
	m := f.await("m", "the refusal", func(m *v1alpha1.Migration) bool { return m.Status.Failure != nil })
	if m.Status.Failure.Reason != v1alpha1.ReasonNoEligibleNode || !strings.Contains(m.Status.Failure.Message, "PersistentVolume") {
		t.Errorf("failure %+v", m.Status.Failure)
	}
	f.nothingBut([]string{"db"}, nil)
}

// A placeholder outlives its Migration only as long as nobody deletes it.
func TestOrphanedPlaceholderCanBeDeleted(t *testing.T) {
	f := newFixture(t)
	f.podWithDisk("n1", "n2")
	f.handOver("m", "db")
	m := f.toSwitchingOver("m")
	f.stop()
	must(t, cluster.client.Patch(t.Context(), m, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	must(t, cluster.client.Delete(t.Context(), m))
	must(t, cluster.client.Delete(t.Context(), f.pod(m.Status.Placeholder.PodName)))
	f.restart()
	eventually(t, "the placeholder to go", func() (bool, string) { return !f.exists(*m.Status.Placeholder), "there" })
	f.nothingBut([]string{"db", m.Status.Placeholder.PodName}, []string{m.Status.Placeholder.PodName})
}

// The source is not frozen before the API server is seen to keep its name.
func TestNameIsKeptBeforeAnythingIsFrozen(t *testing.T) {
	f := newFixture(t)
	f.podWithDisk("n1", "n2")
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}
	must(t, cluster.client.Get(t.Context(), client.ObjectKey{Name: "godwit-same-name"}, binding))
	must(t, cluster.client.Delete(t.Context(), binding))
	restore := func() error {
		return client.IgnoreAlreadyExists(cluster.client.Create(f.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: binding.Name}, Spec: binding.Spec}))
	}
	done := false
	defer func() {
		if !done {
			_ = restore()
		}
	}()
	f.unkept()
	f.handOver("m", "db")
	f.toPreCopying("m")
	f.source("m", v1alpha1.SourceConverged)
	f.await("m", "the policy to be missed", func(m *v1alpha1.Migration) bool { return strings.Contains(m.Status.Message, "godwit-same-name") })
	must(t, restore())
	done = true
	m := f.toSwitchingOver("m")
	f.rollBack("m")
	f.nothingBut([]string{"db", m.Status.Target.PodName}, []string{m.Status.Target.PodName})
}

// unkept waits until the API server keeps no names, of a Migration of which no manager
// knows.
func (f *fixture) unkept() {
	f.Helper()
	ns := f.ns + "-unkept"
	must(f.T, cluster.client.Create(f.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "m"}, Spec: v1alpha1.MigrationSpec{PodName: "kept"}}
	must(f.T, cluster.client.Create(f.Context(), m))
	m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseReplacing, Handoff: v1alpha1.HandoffSameName}
	must(f.T, cluster.client.Status().Update(f.Context(), m))
	eventually(f.T, "the policy to be gone", func() (bool, string) {
		t := template(nil)
		err := cluster.client.Create(f.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kept"}, Spec: t.Spec}, client.DryRunAll)
		return err == nil, fmt.Sprint(err)
	})
}

// Of a StatefulSet the pod is made again as ever, and has its volume again.
func TestVolumeOfAStatefulSetsPodIsHandedOver(t *testing.T) {
	f := newFixture(t)
	f.disk("data", "n1", "n2")
	pods := f.statefulSet(1, withDisk)
	f.handOver("m", pods[0].Name)
	m := f.toSwitchingOver("m")
	if claim := claimOf(f.pod(m.Status.Target.PodName), "data"); claim != "" {
		t.Errorf("the placeholder waits for claim %s", claim)
	}
	f.toReplaced("m")
	if target := f.pod(pods[0].Name); claimOf(target, "data") != "data" || metav1.GetControllerOf(target) == nil {
		t.Errorf("target = %+v", target)
	}
	f.restored("m")
	f.nothingBut([]string{pods[0].Name, m.Status.Target.PodName, pods[0].Name}, []string{pods[0].Name, m.Status.Target.PodName})
}
