// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// Somebody who can write the volume changes one byte of the final dump after
// its digest was published: the target does not commit, and the source goes on.
func TestTamperedImageFile(t *testing.T) {
	s := begin(t)
	p := s.memhog("suspicious")
	m := s.migration("move", p.pod.Name)
	// The manager is stopped for the moment in which the create parks, so that
	// there is time to stop the target's agent before the switchover is armed.
	s.await(m, "the gate to be opened", harness.TargetState(v1alpha1.TargetReleased, v1alpha1.TargetParked))
	manager, err := s.Manager(s.ctx)
	s.must(err)
	onManager := s.look(manager)
	s.must(onManager.Signal(s.ctx, "STOP"))
	// Continuing what was not stopped, or is gone, does nothing.
	defer func() { _ = onManager.Signal(s.ctx, "CONT") }()
	s.await(m, "the target to be parked", harness.TargetState(v1alpha1.TargetParked))
	agent, err := s.AgentOn(s.ctx, m.Status.Target.NodeName)
	s.must(err)
	onTarget := s.look(agent)
	s.must(onTarget.Signal(s.ctx, "STOP"))
	defer func() { _ = onTarget.Signal(s.ctx, "CONT") }()
	s.must(onManager.Signal(s.ctx, "CONT"))
	s.await(m, "the digest to be published", harness.SourceState(v1alpha1.SourceDumped))
	if m.Status.Handover != nil {
		t.Fatalf("the target's agent was faster: %+v", m.Status.Handover)
	}
	source, err := s.Nodes.Node(p.pod.Spec.NodeName)
	s.must(err)
	out, err := source.Output(s.ctx, fmt.Sprintf(`f=$(find %s/%s -path '*/final/images.tar' -print -quit) && test -n "$f" &&
		printf '\377' | dd of="$f" bs=1 seek=600 conv=notrunc,fsync status=none && echo "$f"`, harness.ImagesDir, m.UID))
	s.must(err)
	t.Logf("changed %s", out)
	s.must(onTarget.Signal(s.ctx, "CONT"))

	s.finish(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonImageSetInvalid || !strings.Contains(f.Message, "/final/images.tar") {
		t.Errorf("failure %+v, want %s about a file of the final dump", f, v1alpha1.ReasonImageSetInvalid)
	}
	if h := m.Status.Handover; h == nil || h.State != v1alpha1.HandoverAborted {
		t.Errorf("hand-over %+v", h)
	}
	s.stayed(m, p.pod)
	p.unharmed()
}

// The installed policies refuse pods that pass themselves off as targets, and an
// agent's token that is used for another node.
func TestTrust(t *testing.T) {
	s := begin(t)
	for name, change := range map[string]func(*corev1.Pod){
		"RuntimeClass": func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName) },
		"Annotation":   func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationMigration: "kube-system/x"} },
		"Label":        func(p *corev1.Pod) { p.Labels[v1alpha1.LabelMigration] = "x" },
		"CRIUConfig":   func(p *corev1.Pod) { p.Annotations = map[string]string{"org.criu.config": "/tmp/x.conf"} },
	} {
		s.step(name, func() {
			pod := s.MemhogPod(s.namespace, "forged", "SIZE_MIB=4")
			change(pod)
			s.refused(s.Create(s.ctx, pod))
		})
	}
	s.step("AgentOfAnotherNode", func() {
		pod := s.memhog("still").pod
		m := s.migration("dry", pod.Name, func(spec *v1alpha1.MigrationSpec) { spec.DryRun = true })
		s.finish(m, v1alpha1.PhaseSucceeded)
		report := client.RawPatch(types.MergePatchType, []byte(`{"status":{"source":{"state":"Frozen"}}}`))
		label, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{v1alpha1.LabelNodeReady: "true"}}})
		s.must(err)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName}}
		for _, n := range s.Nodes.Nodes() {
			agent := s.asAgentOn(n.Name)
			writes := []error{
				agent.Status().Patch(s.ctx, m.DeepCopy(), report, client.DryRunAll),
				agent.Patch(s.ctx, node.DeepCopy(), client.RawPatch(types.MergePatchType, label), client.DryRunAll),
			}
			for _, err := range writes {
				if n.Name == pod.Spec.NodeName {
					s.must(err)
				} else {
					s.refused(err)
				}
			}
		}
	})
}

// refused fails the test unless an admission policy of ours refused a request.
func (s *scenario) refused(err error) {
	s.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+harness.Release) {
		s.Errorf("got %v, want a policy of ours to refuse it", err)
	}
}

// asAgentOn is a client with a token like that of a node's agent.
func (s *scenario) asAgentOn(node string) client.Client {
	s.Helper()
	pod, err := s.AgentOn(s.ctx, node)
	s.must(err)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}}
	s.must(s.SubResource("token").Create(s.ctx, account, request))
	config := rest.AnonymousClientConfig(s.REST)
	config.BearerToken = request.Status.Token
	c, err := client.New(config, client.Options{Scheme: s.Scheme()})
	s.must(err)
	return c
}
