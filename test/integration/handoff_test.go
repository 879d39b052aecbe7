// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// startWithDisk runs a pod of no controller with a volume that only one node can have, and
// sees that no two pods ever ask for it: the second would wait for the first.
func (c *cluster) startWithDisk(mode corev1.PersistentVolumeAccessMode) *corev1.Pod {
	c.t.Helper()
	modes := []corev1.PersistentVolumeAccessMode{mode}
	capacity := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: c.ns}, Spec: corev1.PersistentVolumeSpec{AccessModes: modes, Capacity: capacity,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example", VolumeHandle: c.ns}}}}
	must(c.t, c.client.Create(c.ctx, volume))
	must(c.t, c.client.Create(c.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "disk"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: volume.Name, Resources: corev1.VolumeResourceRequirements{Requests: capacity}}}))
	pod := c.startPod("db", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	})
	c.wg.Go(func() {
		for tick := time.NewTicker(pollInterval); c.ctx.Err() == nil; {
			select {
			case <-c.ctx.Done():
				return
			case <-tick.C:
			}
			var pods corev1.PodList
			if c.client.List(c.ctx, &pods, client.InNamespace(c.ns)) != nil {
				continue
			}
			var users []string
			for i := range pods.Items {
				for _, v := range pods.Items[i].Spec.Volumes {
					if v.PersistentVolumeClaim != nil {
						users = append(users, pods.Items[i].Name)
					}
				}
			}
			if len(users) > 1 {
				c.t.Errorf("the volume is asked for by %v", users)
				return
			}
		}
	})
	return pod
}

func handOver(m *v1alpha1.Migration) { m.Spec.VolumePolicy = v1alpha1.VolumePolicyHandoff }

// A pod of no controller is made again by the manager, there and back.
func TestABarePodIsMadeAgain(t *testing.T) {
	for _, mode := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteOncePod} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t)
			pod := c.startWithDisk(mode)
			for _, node := range []string{"n2", "n1"} {
				m := c.migrate(pod.Name, handOver)
				c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
				c.keptItsName(m, pod)
				c.runsOn(node)
				if d := m.Status.Downtime; d == nil || d.Replace == nil || d.Replace.Duration <= 0 {
					t.Errorf("the replacement is not measured: %s", describe(m))
				}
				c.get(pod)
			}
		})
	}
}

// The manager is restarted again and again from the commit on, and a person removes the
// placeholder meanwhile.
func TestABarePodIsMadeAgainWhateverBecomesOfTheManager(t *testing.T) {
	c := newCluster(t)
	pod := c.startWithDisk(corev1.ReadWriteOnce)
	m := c.migrate(pod.Name, handOver)
	c.awaitPhase(m, v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseReplacing)
	placeholder := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: m.Status.Placeholder.PodName}}
	c.eventually("the commit", func() bool { return c.get(m) && m.Status.Handover != nil }, m)
	must(t, client.IgnoreNotFound(c.client.Delete(c.ctx, placeholder)))
	for range 4 {
		c.restartController()
		time.Sleep(5 * pollInterval)
	}
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
}

// A restore that fails when the source is gone is tried again.
func TestABarePodIsRestoredAgain(t *testing.T) {
	c := newCluster(t)
	pod := c.startWithDisk(corev1.ReadWriteOnce)
	c.node("n2").failRestores = 2
	m := c.migrate(pod.Name, handOver)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
	if m.Status.Target.FailedRestores != 2 {
		t.Errorf("it was not tried again: %s", describe(m))
	}
}
