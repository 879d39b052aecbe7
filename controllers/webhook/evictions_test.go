// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// world is a namespace with a pod that runs on a node.
type world struct {
	*testing.T
	ns  string
	pod *corev1.Pod
}

func newWorld(t *testing.T) *world {
	needServer(t)
	w := &world{T: t, ns: namespace(t)}
	w.pod = w.run("web", "n1")
	return w
}

// run makes a pod that kubelet has started, as far as the API is concerned.
func (w *world) run(name, node string, changes ...func(*corev1.Pod)) *corev1.Pod {
	w.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: ptr.To(int64(0)),
			Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
	for _, c := range changes {
		c(pod)
	}
	must(w, testClient.Create(w.Context(), pod))
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
	must(w, testClient.Status().Update(w.Context(), pod))
	return pod
}

// migration makes a Migration of the pod, as far as status says.
func (w *world) migration(name string, status func(*v1alpha1.MigrationStatus)) *v1alpha1.Migration {
	w.Helper()
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: v1alpha1.MigrationSpec{PodName: w.pod.Name, TargetPodName: w.pod.Name + "-2"}}
	must(w, testClient.Create(w.Context(), m))
	m.Status.Phase = v1alpha1.PhasePreCopying
	m.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: w.pod.Name, PodUID: w.pod.UID}}
	m.Status.Source.Round, m.Status.Source.Dirty = ptr.To(int32(3)), "412Mi"
	if status != nil {
		status(&m.Status)
	}
	must(w, testClient.Status().Update(w.Context(), m))
	w.seen(m)
	return m
}

// seen waits until the webhooks' cache has an object as it was stored.
func (w *world) seen(o client.Object) {
	w.Helper()
	have := o.DeepCopyObject().(client.Object)
	must(w, wait.PollUntilContextTimeout(w.Context(), 5*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := testCache.Get(ctx, client.ObjectKeyFromObject(o), have)
		return err == nil && have.GetResourceVersion() == o.GetResourceVersion(), client.IgnoreNotFound(err)
	}))
}

func (w *world) evict(pod *corev1.Pod, options *metav1.DeleteOptions) error {
	w.seen(pod)
	return testClient.SubResource("eviction").Create(w.Context(), pod.DeepCopy(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}, DeleteOptions: options})
}

func (w *world) exists(pod *corev1.Pod) bool {
	w.Helper()
	err := testClient.Get(w.Context(), client.ObjectKeyFromObject(pod), &corev1.Pod{})
	must(w, client.IgnoreNotFound(err))
	return err == nil
}

// refused says that whoever drains is told to try again, by a message that a
// person can read, and that client-go does not try on its own.
func (w *world) refused(err error, says ...string) {
	w.Helper()
	if !apierrors.IsTooManyRequests(err) {
		w.Fatalf("got %v, want that there are too many requests", err)
	}
	status := apierrors.APIStatus(nil)
	if s, ok := err.(apierrors.APIStatus); ok {
		status = s
	}
	if status == nil || status.Status().Code != http.StatusTooManyRequests {
		w.Errorf("status %+v", status)
	}
	if _, retries := apierrors.SuggestsClientDelay(err); retries {
		w.Error("client-go would repeat it by itself")
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			w.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestEvictionOfAPodThatNobodyMoves(t *testing.T) {
	w := newWorld(t)
	must(t, w.evict(w.pod, nil))
	if w.exists(w.pod) {
		t.Error("the pod is still there")
	}
	// Nor is one that is gone any business of ours.
	if err := w.evictMissing("web"); !apierrors.IsNotFound(err) {
		t.Errorf("evicting what is gone: %v", err)
	}
}

func (w *world) evictMissing(name string) error {
	return testClient.SubResource("eviction").Create(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}, &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}})
}

func TestEvictionOfAPodThatIsMoved(t *testing.T) {
	w := newWorld(t)
	target := w.run("web-2", "n2")
	w.migration("m", func(s *v1alpha1.MigrationStatus) {
		s.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: target.Name, PodUID: target.UID}}
	})
	w.refused(w.evict(w.pod, nil), w.ns+"/web", "migration m", "round 3", "412Mi dirty")
	if !w.exists(w.pod) {
		t.Error("the source is gone")
	}
}

func TestDryRunOfADrainEnds(t *testing.T) {
	w := newWorld(t)
	w.migration("m", nil)
	// In the eviction's own options, as kubectl does.
	must(t, w.evict(w.pod, &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	must(t, testClient.Create(t.Context(), node))
	other := w.run("other", node.Name)
	w.pod = other
	w.migration("m2", func(s *v1alpha1.MigrationStatus) { s.Source.PodUID = other.UID })

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, testKubectl, "--kubeconfig", kubeconfig, "drain", node.Name, "--force", "--dry-run=server").CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl drain: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "Warning: dry run; the eviction would be answered: pod \""+w.ns+"/other\"") {
		t.Errorf("kubectl drain says:\n%s", out)
	}
	if !w.exists(other) {
		t.Error("the dry run has evicted the pod")
	}
}

func TestEvictionOfATarget(t *testing.T) {
	w := newWorld(t)
	target := w.run("web-2", "n2")
	w.migration("m", func(s *v1alpha1.MigrationStatus) {
		s.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: target.Name, PodUID: target.UID}}
	})
	w.refused(w.evict(target, nil), w.ns+"/web-2", "migration m", "cancel")
	if !w.exists(target) {
		t.Error("the target is gone")
	}
}
