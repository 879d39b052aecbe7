// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// diskWriter goes on writing into files of a disk beside the test server: one that it keeps
// open, one that it opens each time, and one that has no name any more.
const diskWriter = `exec 7>>/disk/open.log 8<>/disk/nameless; rm /disk/nameless; n=0
while :; do n=$((n+1)); echo $n >&7; echo $n >> /disk/log; echo $n >&8; sleep 0.1; done & exec /usr/local/bin/memhog`

// attachments are what became of a claim's volume, as Kubernetes has it.
type attachments struct {
	mu sync.Mutex
	// detached and attached are when it was seen to be attached nowhere, and then
	// somewhere, last.
	detached, attached time.Time
	// both is set when it was attached to two nodes.
	both bool
}

// watchDisk looks at where a claim's volume is attached until the returned function is
// called.
func (s *scenario) watchDisk(claim string) (a *attachments, stop func()) {
	s.Helper()
	c := &corev1.PersistentVolumeClaim{}
	s.must(s.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: claim}, c))
	a = &attachments{}
	end, done := make(chan struct{}), make(chan struct{})
	ctx := s.ctx
	go func() {
		defer close(done)
		was := 1
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			var list storagev1.VolumeAttachmentList
			if s.List(ctx, &list) != nil {
				continue
			}
			n, ready := 0, true
			for _, v := range list.Items {
				if ptr.Deref(v.Spec.Source.PersistentVolumeName, "") == c.Spec.VolumeName {
					n++
					ready = ready && v.Status.Attached
				}
			}
			a.mu.Lock()
			now := time.Now()
			switch {
			case n > 1:
				a.both = true
			case n == 0 && was > 0:
				a.detached = now
			case n == 1 && ready && a.attached.Before(a.detached):
				a.attached = now
			}
			was = n
			a.mu.Unlock()
		}
	}()
	return a, sync.OnceFunc(func() {
		close(end)
		<-done
	})
}

// handsOver moves a pod that keeps its name, with the volume of a claim, and follows it.
func (p *process) handsOver(name, claim string) {
	p.Helper()
	was := p.pod
	disk, stop := p.watchDisk(claim)
	defer stop()
	m := p.migration(name, was.Name, func(spec *v1alpha1.MigrationSpec) { spec.VolumePolicy = v1alpha1.VolumePolicyHandoff })
	p.continues(p.arrived(m))
	stop()
	if p.pod.Name != was.Name || p.pod.UID == was.UID || p.pod.Spec.NodeName == was.Spec.NodeName || m.Status.Handoff != v1alpha1.HandoffSameName {
		p.Errorf("%s (%s) on %s has become %s (%s) on %s", was.Name, was.UID, was.Spec.NodeName, p.pod.Name, p.pod.UID, p.pod.Spec.NodeName)
	}
	for k, v := range was.Labels {
		if k != v1alpha1.LabelMigration && p.pod.Labels[k] != v {
			p.Errorf("label %s is %q, was %q", k, p.pod.Labels[k], v)
		}
	}
	p.attachedTo(claim, p.pod.Spec.NodeName)
	if disk.both || disk.detached.IsZero() || disk.attached.IsZero() {
		p.Errorf("the disk: %+v", disk)
	}
	d := m.Status.Downtime
	if d == nil || d.Replace == nil {
		p.Fatalf("the replacement was not measured: %+v", d)
	}
	// Of the clocks of two machines, and seen every tenth of a second.
	committed := m.Status.Handover.Time.Time
	p.Logf("%s: replaced in %s; since the commit the disk was detached after %s, and attached after %s",
		name, d.Replace.Round(time.Millisecond), disk.detached.Sub(committed).Round(100*time.Millisecond), disk.attached.Sub(committed).Round(100*time.Millisecond))
	p.diskGoesOn()
	placeholder := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: m.Status.Placeholder.PodName, UID: m.Status.Placeholder.PodUID}}
	p.must(p.AwaitPodGone(p.ctx, placeholder))
	p.nothingLeft(m)
}

// diskGoesOn checks that nothing of what was written to the disk is lost or there twice, and
// that writing goes on.
func (p *process) diskGoesOn() {
	p.Helper()
	const count = `awk '$1 != NR { print "line " NR " is " $1; exit } END { print NR }' `
	for _, file := range []string{"/disk/open.log", "/disk/log"} {
		first := strings.TrimSpace(p.sh(p.pod.Name, count+file))
		n, err := strconv.Atoi(first)
		if err != nil || n == 0 {
			p.Errorf("%s: %s", file, first)
			continue
		}
		p.eventually(file+" to grow", func() (bool, string) {
			now := strings.TrimSpace(p.sh(p.pod.Name, count+file))
			more, err := strconv.Atoi(now)
			return err == nil && more > n, now
		})
	}
	// The file without a name is one of the writer's descriptors.
	out := p.sh(p.pod.Name, `for p in /proc/[0-9]*; do [ -e $p/fd/8 ] && awk '$1 != NR { bad = 1 } END { print bad ? "wrong" : "whole" }' $p/fd/8; done; true`)
	if !strings.Contains(out, "whole") || strings.Contains(out, "wrong") {
		p.Errorf("the file without a name: %q", out)
	}
}

// writesToDisk lets a pod write to its disk.
func writesToDisk(spec *corev1.PodSpec) {
	spec.Containers[0].Command = []string{"/bin/sh", "-c", diskWriter}
}

// A pod of no controller takes a ReadWriteOnce volume along, there and back.
func TestHandoffOfABarePod(t *testing.T) {
	s := begin(t)
	s.must(s.Create(s.ctx, diskClaim(s.namespace, "data", s.disks(1))))
	pod := s.diskPod("database", "", "data")
	pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: "DIRTY_MIB_PER_SECOND", Value: "1"})
	pod.Labels = map[string]string{"app": "database"}
	writesToDisk(&pod.Spec)
	s.start(pod)
	p := s.follow(pod)

	m := s.migration("refused", pod.Name)
	s.finish(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonVolumeNotPortable || !strings.Contains(f.Message, "volumePolicy: Handoff") {
		t.Errorf("failure %+v", f)
	}
	s.stayed(m, pod)

	for _, name := range []string{"there", "back"} {
		p.handsOver(name, "data")
	}
	if len(p.pod.OwnerReferences) != 0 {
		t.Errorf("its owners are %+v", p.pod.OwnerReferences)
	}
}

// A StatefulSet's pod takes the volume of its template along, there and back.
func TestHandoffOfAStatefulSetsPod(t *testing.T) {
	s := begin(t)
	class := s.disks(1)
	labels := map[string]string{"app": "web"}
	template := s.template()
	template.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(1000))}
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/disk"}}
	writesToDisk(&template.Spec)
	claim := diskClaim(s.namespace, "data", class)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr.To(int32(1)), ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claim.Spec}}}}
	s.must(s.Create(s.ctx, set))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, set, "the StatefulSet", func(bool) (bool, error) { return set.Status.AvailableReplicas == 1, nil }))
	pods := s.podsOf(1)
	p := s.follow(&pods[0])
	for _, name := range []string{"there", "back"} {
		was := p.pod
		p.handsOver(name, fmt.Sprint("data-", was.Name))
		s.keepsItsName(p.pod, was)
	}
}
