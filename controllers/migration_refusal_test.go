// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

func (f *fixture) claim(name string, mode corev1.PersistentVolumeAccessMode, bound string) {
	f.Helper()
	f.must(testClient.Create(f.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{mode}, VolumeName: bound,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
	}), "create claim %s", name)
}

// directory makes a PersistentVolume of a directory of the node.
func (f *fixture) directory(name string) {
	f.Helper()
	f.must(testClient.Create(f.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}},
	}), "create PersistentVolume %s", name)
}

// disk makes a PersistentVolume that can be attached to any node.
func (f *fixture) disk() string {
	f.Helper()
	name := f.ns + "-disk"
	f.must(testClient.Create(f.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example", VolumeHandle: name}}},
	}), "create PersistentVolume %s", name)
	return name
}

func withClaim(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
}

// What the API shows to be impossible fails at once, and leaves nothing behind.
func TestControllerRefuses(t *testing.T) {
	f := newFixture(t)
	yes := true
	f.claim("one-node", corev1.ReadWriteOnce, "")
	f.directory(f.ns + "-directory")
	f.claim("of-two", corev1.ReadWriteOnce, f.disk())
	f.runningPod("other", withClaim("of-two"))
	ofReplicaSet := func(p *corev1.Pod) {
		withClaim("of-two")(p)
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "1", Controller: &yes}}
	}
	handOver := v1alpha1.MigrationSpec{VolumePolicy: v1alpha1.VolumePolicyHandoff}
	f.claim("directory", corev1.ReadWriteMany, f.ns+"-directory")
	for _, tc := range []struct {
		name   string
		change func(*corev1.Pod)
		spec   v1alpha1.MigrationSpec
		reason string
	}{
		{"no-such-pod", nil, v1alpha1.MigrationSpec{PodName: "nobody"}, v1alpha1.ReasonSourcePodNotFound},
		{"owned", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "web", UID: "1", Controller: &yes}}
		}, v1alpha1.MigrationSpec{}, v1alpha1.ReasonOwnedPod},
		{"host-network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, v1alpha1.MigrationSpec{}, v1alpha1.ReasonHostNetwork},
		{"claim-of-one-node", withClaim("one-node"), v1alpha1.MigrationSpec{}, v1alpha1.ReasonVolumeNotPortable},
		{"claim-of-a-directory", withClaim("directory"), v1alpha1.MigrationSpec{}, v1alpha1.ReasonVolumeNotPortable},
		{"handed-over-directory", withClaim("directory"), handOver, v1alpha1.ReasonVolumeNotPortable},
		{"handed-over-unbound", withClaim("one-node"), handOver, v1alpha1.ReasonVolumeNotPortable},
		{"handed-over-of-two", withClaim("of-two"), handOver, v1alpha1.ReasonVolumeNotPortable},
		{"handed-over-of-a-replicaset", ofReplicaSet, handOver, v1alpha1.ReasonVolumeNotPortable},
		{"missing-claim", withClaim("nowhere"), v1alpha1.MigrationSpec{}, v1alpha1.ReasonVolumeNotPortable},
		{"no-other-arm-node", func(p *corev1.Pod) { p.Spec.NodeName = "arm" }, v1alpha1.MigrationSpec{}, v1alpha1.ReasonNoEligibleNode},
		{"unknown-source-node", func(p *corev1.Pod) { p.Spec.NodeName = "elsewhere" }, v1alpha1.MigrationSpec{}, v1alpha1.ReasonSourceNodeNotReady},
		{"to-where-it-is", nil, v1alpha1.MigrationSpec{TargetNode: "n1"}, v1alpha1.ReasonTargetNodeNotEligible},
		{"to-an-older-kernel", nil, v1alpha1.MigrationSpec{TargetNode: "old"}, v1alpha1.ReasonTargetNodeNotEligible},
		{"to-nowhere", nil, v1alpha1.MigrationSpec{TargetNode: "n9"}, v1alpha1.ReasonTargetNodeNotEligible},
		{"name-is-taken", nil, v1alpha1.MigrationSpec{TargetPodName: "owned"}, v1alpha1.ReasonTargetPodExists},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fixture{T: t, ctx: f.ctx, ns: f.ns, clock: f.clock, registry: f.registry}
			spec := tc.spec
			var source *corev1.Pod
			if spec.PodName == "" {
				var changes []func(*corev1.Pod)
				if tc.change != nil {
					changes = append(changes, tc.change)
				}
				source = f.runningPod(tc.name, changes...)
				spec.PodName = tc.name
			}
			f.create(tc.name, spec)
			m := f.awaitPhase(tc.name, v1alpha1.PhaseFailed)
			if m.Status.Failure.Reason != tc.reason || m.Status.Failure.Message == "" || m.Status.Message != m.Status.Failure.Message {
				t.Errorf("failure = %+v, message %q, want %s", m.Status.Failure, m.Status.Message, tc.reason)
			}
			if m.Status.Handover != nil || m.Status.Target != nil {
				t.Errorf("something was begun: %+v", m.Status)
			}
			if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionComplete); c.Status != metav1.ConditionTrue || c.Reason != tc.reason {
				t.Errorf("Complete = %+v", c)
			}
			f.await(tc.name, "the finalizer's removal", func(m *v1alpha1.Migration) bool { return len(m.Finalizers) == 0 })
			if source != nil {
				f.sourceGoesOn(source)
			}
		})
	}
}

func TestPodThatDoesNotRunIsRefused(t *testing.T) {
	f := newFixture(t)
	f.must(testClient.Create(f.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "new"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}), "create pod")
	f.create("m", v1alpha1.MigrationSpec{PodName: "new"})
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonSourcePodNotRunning {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
}

func TestSharedClaimMayMove(t *testing.T) {
	f := newFixture(t)
	f.claim("shared", corev1.ReadWriteMany, "")
	f.runningPod("redis", withClaim("shared"))
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toPreCopying("m")
}

func TestAgentRefuses(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.sourceReports("m", v1alpha1.SourceReport{State: v1alpha1.SourceRefused, Refusals: []v1alpha1.Failure{
		{Reason: v1alpha1.ReasonMultipathTCP, Container: "app", Message: "set GODEBUG=multipathtcp=0"},
		{Reason: v1alpha1.ReasonExecSession, Message: "end the exec session"},
	}})
	m := f.awaitPhase("m", v1alpha1.PhaseFailed)
	if want := "set GODEBUG=multipathtcp=0; also: end the exec session"; m.Status.Failure.Reason != v1alpha1.ReasonMultipathTCP || m.Status.Message != want {
		t.Errorf("failure = %+v, message %q", m.Status.Failure, m.Status.Message)
	}
	if len(m.Status.Source.Refusals) != 2 {
		t.Errorf("the agent's refusals are lost: %+v", m.Status.Source)
	}
	f.sourceGoesOn(source)
}

func TestDryRunTouchesNothing(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis", DryRun: true})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.sourceReports("m", checkedReport())
	m := f.awaitPhase("m", v1alpha1.PhaseSucceeded)
	if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionComplete); c.Reason != v1alpha1.ReasonDryRunPassed {
		t.Errorf("Complete = %+v", c)
	}
	if m.Status.Target != nil || m.Status.Handover != nil || m.Status.Downtime != nil {
		t.Errorf("status = %+v", m.Status)
	}
	var pods corev1.PodList
	f.must(testClient.List(f.ctx, &pods, client.InNamespace(f.ns)), "list pods")
	if len(pods.Items) != 1 {
		t.Errorf("%d pods", len(pods.Items))
	}
	f.sourceGoesOn(source)
}

// The gate and all else that is added passes the strictest Pod Security level.
func TestTargetPodIsAdmittedWhereTheSourceIs(t *testing.T) {
	f := newFixture(t)
	f.enforce("restricted")
	yes, no := true, false
	f.runningPod("redis", func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	})
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toPreCopying("m")
}

func TestRefusedTargetPodEndsTheMigration(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.enforce("restricted") // since the source was admitted
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.sourceReports("m", checkedReport())
	f.rollsBack("m", checkedReport())
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonTargetPodCreateRefused {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	f.sourceGoesOn(source)
}

func (f *fixture) enforce(level string) {
	f.Helper()
	ns := &corev1.Namespace{}
	f.must(testClient.Get(f.ctx, client.ObjectKey{Name: f.ns}, ns), "get namespace")
	ns.Labels["pod-security.kubernetes.io/enforce"] = level
	f.must(testClient.Update(f.ctx, ns), "label namespace")
}

func TestOlderMigrationWins(t *testing.T) {
	f := newNamespace(t)
	f.runningPod("redis")
	// Both are there when the controller starts; the names say nothing.
	older := f.create("z-older", v1alpha1.MigrationSpec{PodName: "redis"})
	newer := f.create("a-newer", v1alpha1.MigrationSpec{PodName: "redis"})
	if before(newer, older) { // made within the same second
		older, newer = newer, older
	}
	f.start()
	m := f.awaitPhase(newer.Name, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonConflictingMigration {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	f.toSucceeded(older.Name)
}

func TestBegunMigrationWins(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("first", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toPreCopying("first")
	f.create("second", v1alpha1.MigrationSpec{PodName: "redis"})
	if m := f.awaitPhase("second", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonConflictingMigration {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	// The gauge is read from the cache, and the counter is raised after the
	// phase is stored: both follow what the API shows.
	inFlight := func() *dto.Metric { return f.metric("godwit_migrations_in_flight", "phase", "PreCopying") }
	f.until("one migration in flight", func() bool { return inFlight().GetGauge().GetValue() == 1 }, func() string { return inFlight().String() })
	failed := func() *dto.Metric {
		return f.metric("godwit_migrations_finished_total", "result", "Failed", "reason", v1alpha1.ReasonConflictingMigration)
	}
	f.until("one failed migration counted", func() bool { return failed().GetCounter().GetValue() == 1 }, func() string { return failed().String() })
	if m := f.get("first"); m.Status.Phase != v1alpha1.PhasePreCopying {
		t.Errorf("the first is %s", m.Status.Phase)
	}
}

func TestTargetOfAnUnfinishedMigrationStays(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("first", v1alpha1.MigrationSpec{PodName: "redis"})
	m := f.toCompleting("first")
	f.create("second", v1alpha1.MigrationSpec{PodName: migration.TargetPodName(m)})
	if m := f.awaitPhase("second", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonConflictingMigration {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
}
