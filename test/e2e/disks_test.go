// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/test/harness"
)

// The tests of ReadWriteOnce volumes stand on this: such a volume is attached to one node,
// a pod on another node waits for it, and gets it with all that was written when it is
// free.
func TestADiskIsOneNodesOnly(t *testing.T) {
	s := begin(t)
	s.must(s.Create(s.ctx, diskClaim(s.namespace, "data", s.disks(1))))
	nodes := s.Nodes.Nodes()
	first, second := s.diskPod("first", nodes[0].Name, "data"), s.diskPod("second", nodes[1].Name, "data")

	s.start(first)
	s.attachedTo("data", nodes[0].Name)
	if out := s.sh(first.Name, "awk '$2 == \"/disk\" { print $1, $3 }' /proc/mounts"); !strings.HasPrefix(out, "/dev/loop") || !strings.HasSuffix(out, " ext4\n") {
		t.Errorf("mounted is %q", out)
	}
	// Nothing tells the kernel to write it to the disk.
	written := s.sh(first.Name, "head -c 3000000 /dev/urandom > /disk/file; sha256sum /disk/file")

	s.must(s.Create(s.ctx, second))
	s.eventually("the second pod to be kept waiting", func() (bool, string) {
		var events corev1.EventList
		s.must(s.List(s.ctx, &events, client.InNamespace(s.namespace)))
		var seen []string
		for _, e := range events.Items {
			if e.InvolvedObject.UID != second.UID {
				continue
			}
			if e.Reason == "FailedAttachVolume" && strings.Contains(e.Message, "already used by pod(s) first") {
				t.Log(e.Message)
				return true, ""
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return false, fmt.Sprint(seen)
	})
	s.attachedTo("data", nodes[0].Name)
	if pod := s.pod(second.Name); pod.Status.Phase != corev1.PodPending {
		t.Errorf("the second pod is %s", pod.Status.Phase)
	}

	s.must(s.Delete(s.ctx, first))
	s.must(s.AwaitPodGone(s.ctx, first))
	s.must(s.AwaitPodReady(s.ctx, second))
	s.attachedTo("data", nodes[1].Name)
	if read := s.sh(second.Name, "sha256sum /disk/file"); read != written {
		t.Errorf("read: %s, written: %s", read, written)
	}
}

// disks makes n empty ReadWriteOnce volumes for the test, and returns their storage class.
func (s *scenario) disks(n int) (class string) {
	s.Helper()
	class = s.namespace
	s.must(s.InstallDisks(s.ctx))
	s.must(s.MakeDisks(s.ctx, class, n))
	s.Cleanup(func() { s.must(s.DeleteDisks(context.WithoutCancel(s.ctx), class)) })
	return class
}

// diskClaim is a claim of one of the disks of a class.
func diskClaim(namespace, name, class string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}
}

// diskPod describes a test server on a node with the claim's volume at /disk.
func (s *scenario) diskPod(name, node, claim string) *corev1.Pod {
	pod := s.MemhogPod(s.namespace, name, "SIZE_MIB=4")
	pod.Spec.NodeName = node
	// The server's own group: it does not run as root.
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(1000))}
	pod.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	return pod
}

// attachedTo checks that a claim's volume is attached to this node and to no other, in
// the eyes of Kubernetes and in those of the nodes.
func (s *scenario) attachedTo(claim, node string) {
	s.Helper()
	c := &corev1.PersistentVolumeClaim{}
	s.must(s.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: claim}, c))
	var attachments storagev1.VolumeAttachmentList
	s.must(s.List(s.ctx, &attachments))
	var on []string
	for _, a := range attachments.Items {
		if ptr.Deref(a.Spec.Source.PersistentVolumeName, "") == c.Spec.VolumeName {
			on = append(on, a.Spec.NodeName)
			if a.Spec.Attacher != harness.DiskDriver || !a.Status.Attached {
				s.Errorf("attachment %+v %+v", a.Spec, a.Status)
			}
		}
	}
	if len(on) != 1 || on[0] != node {
		s.Errorf("volume %s is attached to %v, not to %s", c.Spec.VolumeName, on, node)
	}
	for _, n := range s.Nodes.Nodes() {
		out, err := n.Output(s.ctx, "cat /sys/block/loop*/loop/backing_file 2>/dev/null || true")
		s.must(err)
		if has := strings.Contains(out, "/"+c.Spec.VolumeName+".img"); has != (n.Name == node) {
			s.Errorf("node %s has the disk: %t; it shows %q", n.Name, has, out)
		}
	}
}
