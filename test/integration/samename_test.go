// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// startSet runs a StatefulSet's only pod on n1, and makes it again whenever it is
// missing, as the StatefulSet controller does.
func (c *cluster) startSet(containers ...string) *corev1.Pod {
	c.t.Helper()
	return c.startSetWith(nil, containers...)
}

// startSetWith has the pods made with annotations.
func (c *cluster) startSetWith(annotations map[string]string, containers ...string) *corev1.Pod {
	c.t.Helper()
	labels := map[string]string{"app": "db"}
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To(int64(5))}
	for _, name := range containers {
		spec.Containers = append(spec.Containers, corev1.Container{Name: name, Image: "counter:1"})
	}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To(int32(1)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}
	must(c.t, c.client.Create(c.ctx, set))
	set.Status = appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: 1, ReadyReplicas: 1, CurrentRevision: "r1", UpdateRevision: "r1"}
	must(c.t, c.client.Status().Update(c.ctx, set))
	made := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "db-0", Annotations: maps.Clone(annotations),
			Labels:          map[string]string{"app": "db", appsv1.StatefulSetPodNameLabel: "db-0", appsv1.ControllerRevisionHashLabelKey: "r1"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))},
		}, Spec: *spec.DeepCopy()}
	}
	pod := c.startPod("db-0", func(p *corev1.Pod) {
		p.ObjectMeta, p.Spec.Containers = made().ObjectMeta, spec.Containers
		p.Spec.Hostname, p.Spec.Subdomain = "db-0", "db"
	})
	key := client.ObjectKeyFromObject(pod)
	c.wg.Go(func() {
		for tick := time.NewTicker(pollInterval); c.ctx.Err() == nil; {
			select {
			case <-c.ctx.Done():
				return
			case <-tick.C:
			}
			err := c.client.Get(c.ctx, key, &corev1.Pod{})
			if !apierrors.IsNotFound(err) {
				continue
			}
			if err := c.client.Create(c.ctx, made()); err != nil && c.ctx.Err() == nil && !apierrors.IsForbidden(err) {
				c.t.Logf("the StatefulSet: %v", err)
			}
		}
	})
	return pod
}

// keptItsName checks that a migration has ended well, and that the pod is another of
// the same name.
func (c *cluster) keptItsName(m *v1alpha1.Migration, was *corev1.Pod) {
	c.t.Helper()
	now := was.DeepCopy()
	if !c.get(now) || now.UID == was.UID || now.UID != m.Status.Target.PodUID {
		c.t.Errorf("pod %s is %s, was %s: %s", was.Name, now.UID, was.UID, describe(m))
	}
	placeholder := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: m.Status.Placeholder.PodName}}
	c.eventually("the placeholder to go", func() bool { return !c.get(placeholder) })
	if left, err := c.imagesLeft(); err != nil || len(left) > 0 {
		c.t.Errorf("images left on the volume: %v %v", left, err)
	}
}

func TestAPodKeepsItsName(t *testing.T) {
	c := newCluster(t)
	pod := c.startSet("main")
	m := c.migrate(pod.Name)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
	if d := m.Status.Downtime; d == nil || d.Handover.Duration <= 0 {
		t.Errorf("no downtime measured: %s", describe(m))
	}
	c.get(pod)
	back := c.migrate(pod.Name)
	c.awaitPhase(back, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(back, pod)
	c.runsOn("n1")
}

func TestAPodOfSeveralKeepsItsName(t *testing.T) {
	c := newCluster(t)
	for _, n := range c.nodes {
		n.fake.AddImage("counter:1")
	}
	c.ledger.chorus, c.ledger.present = []string{"main", "second"}, c.containersOf
	pod := c.startSet("main", "second")
	c.node("n2").failRestores, c.node("n2").failOf = 1, "second"
	m := c.migrate(pod.Name)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
	if m.Status.Target.FailedRestores != 1 {
		t.Errorf("it was not tried again: %s", describe(m))
	}
}

// What has failed when the source is gone is done again, by whichever agent is there.
func TestRestoresAreTriedAgainWhenTheSourceIsGone(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(map[bool]string{false: "by one agent", true: "by another agent"}[restart], func(t *testing.T) {
			c := newCluster(t)
			pod := c.startSet("main")
			n := c.node("n2")
			n.failRestores = 2
			reached, resume := c.stopAt(failed)
			m := c.migrate(pod.Name)
			c.await(m, "a restore that fails", reached)
			if restart {
				c.agents[n.name].stop()
				resume(false)
				c.agents[n.name] = c.startAgent(n)
			} else {
				resume(true)
			}
			c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
			c.keptItsName(m, pod)
			c.runsOn("n2")
			if m.Status.Target.FailedRestores != 2 || m.Status.Target.Failure != nil {
				t.Errorf("status: %s", describe(m))
			}
		})
	}
}

// A node that starts anew when the pod may have run there does not restore it again. The
// images stay, and a person decides.
func TestTheTargetsNodeRestartsWhenTheSourceIsGone(t *testing.T) {
	c := newCluster(t)
	c.startSet("main")
	n := c.node("n2")
	reached, resume := c.stopAt(letGo)
	m := c.migrate("db-0")
	c.await(m, "the restore", reached)
	c.agents[n.name].stop()
	resume(false)
	c.reboot("n2")
	c.eventually("it is known that the pod is lost", func() bool { return c.get(m) && m.Status.Target.TreeGoneAt != nil }, m)
	c.eventually("kubelet's next create is refused", func() bool { return count(n.verdicts(), "fail") > 1 }, m)
	if v := n.verdicts(); slices.Contains(v, "pass") || count(v, "restore") != 1 {
		t.Errorf("verdicts %v", v)
	}
	c.get(m)
	if left, err := c.imagesLeft(); err != nil || len(left) != 1 || m.Status.Phase != v1alpha1.PhaseReplacing {
		t.Errorf("images on the volume: %v %v: %s", left, err, describe(m))
	}
}

func TestRollbackOfAPodThatKeepsItsName(t *testing.T) {
	c := newCluster(t)
	pod := c.startSet("main")
	m := c.migrate(pod.Name, func(m *v1alpha1.Migration) { m.Spec.PreCopy.MaxRounds = ptr.To(int32(1)) })
	c.node("n1").fake.SetNextError("Dump", errors.New("broken on purpose"))
	c.awaitPhase(m, v1alpha1.PhaseFailed, v1alpha1.PhaseSucceeded)
	c.staysOnSource(pod, m)
}
