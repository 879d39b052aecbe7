// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A claim that several nodes can mount goes on where the pod goes, with what is open in it.
// One that is a directory of a node is refused, and named.
func TestClaims(t *testing.T) {
	s := begin(t)
	s.sharedClaim("shared")
	s.claim("directory", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/tmp"}})
	pod := s.MemhogPod(s.namespace, "traveller", "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1")
	stays := s.MemhogPod(s.namespace, "stays", "SIZE_MIB=4")
	for p, claim := range map[*corev1.Pod]string{pod: "shared", stays: "directory"} {
		p.Spec.Volumes = []corev1.Volume{{Name: "of-the-claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "of-the-claim", MountPath: "/shared"}}
	}
	pod.Spec.Containers[0].Command = []string{"/bin/sh", "-c", `exec 7>>/shared/log; n=0
while :; do n=$((n+1)); echo $n >&7; sleep 0.1; done & exec /usr/local/bin/memhog`}
	s.start(pod, stays)

	m := s.migration("refused", stays.Name)
	s.finish(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonVolumeNotPortable || !strings.Contains(f.Message, `"of-the-claim"`) {
		t.Errorf("failure %+v", f)
	}
	s.stayed(m, stays)

	p := s.follow(pod)
	p.continues(s.arrived(s.migration("move", pod.Name)))
	const count = `awk '$1 != NR { print "line " NR " is " $1; exit } END { print NR }' /shared/log`
	first := strings.TrimSpace(s.sh(p.pod.Name, count))
	n, err := strconv.Atoi(first)
	if err != nil || n == 0 {
		t.Fatalf("the log: %s", first)
	}
	s.eventually("the log to grow", func() (bool, string) {
		now := strings.TrimSpace(s.sh(p.pod.Name, count))
		more, err := strconv.Atoi(now)
		return err == nil && more > n, now
	})
	// It writes into what is about to be removed.
	s.must(s.Delete(s.ctx, p.pod))
	s.must(s.AwaitPodGone(s.ctx, p.pod))
}

// claim makes a ReadWriteMany claim and its volume.
func (s *scenario) claim(name string, source corev1.PersistentVolumeSource, options ...string) {
	s.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-" + name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: modes, PersistentVolumeSource: source, MountOptions: options,
		ClaimRef: &corev1.ObjectReference{Namespace: s.namespace, Name: name},
	}}
	s.must(s.Create(s.ctx, v))
	s.Cleanup(func() { s.must(s.Delete(context.WithoutCancel(s.ctx), v)) })
	s.must(s.Create(s.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, VolumeName: v.Name, StorageClassName: ptr.To(""), Resources: corev1.VolumeResourceRequirements{Requests: size},
	}}))
}

// sharedClaim makes a claim of a directory beside the images: the cluster has one file
// server. No migration has such a name, so that no agent sweeps it away.
func (s *scenario) sharedClaim(name string) {
	s.Helper()
	var volumes corev1.PersistentVolumeList
	s.must(s.List(s.ctx, &volumes))
	for _, v := range volumes.Items {
		if v.Spec.NFS == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.Namespace != harness.Namespace {
			continue
		}
		dir := "." + s.namespace
		node := s.Nodes.Nodes()[0]
		_, err := node.Output(s.ctx, "mkdir -p -m 777 "+harness.ImagesDir+"/"+dir)
		s.must(err)
		s.Cleanup(func() {
			_, err := node.Output(context.WithoutCancel(s.ctx), "rm -rf "+harness.ImagesDir+"/"+dir)
			s.must(err)
		})
		nfs := *v.Spec.NFS
		nfs.Path = strings.TrimSuffix(nfs.Path, "/") + "/" + dir
		s.claim(name, corev1.PersistentVolumeSource{NFS: &nfs}, v.Spec.MountOptions...)
		return
	}
	s.Fatal("the cluster has no volume on a file server")
}
