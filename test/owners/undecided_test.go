// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// blind makes the API server say of the namespace's new pods what one says that has just
// started: that it does not know the kind that a policy is about. It can judge them
// again when the returned function returns.
func (f *fixture) blind() (see func()) {
	f.Helper()
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: f.ns + "-blind"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: ptr.To(admissionregistrationv1.Fail),
			ParamKind:     &admissionregistrationv1.ParamKind{APIVersion: "undefined.example/v1", Kind: "Undefined"},
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: f.ns}},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}},
			},
			Validations: []admissionregistrationv1.Validation{{Expression: "true"}},
		}}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy.Name,
			ParamRef:          &admissionregistrationv1.ParamRef{Name: "none", ParameterNotFoundAction: ptr.To(admissionregistrationv1.AllowAction)},
			ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}}}
	must(f.T, cluster.client.Create(f.Context(), policy))
	must(f.T, cluster.client.Create(f.Context(), binding))
	see = func() {
		f.Helper()
		for _, o := range []client.Object{binding, policy} {
			must(f.T, client.IgnoreNotFound(cluster.client.Delete(f.Context(), o)))
		}
		f.judged("to be taken", func(err error) bool { return err == nil })
	}
	f.judged("not to be judged", func(err error) bool { return err != nil && strings.Contains(err.Error(), policy.Name) })
	return see
}

// judged waits until the API server says that of a pod that anybody might make.
func (f *fixture) judged(what string, ok func(error) bool) {
	f.Helper()
	eventually(f.T, "pods "+what, func() (bool, string) {
		err := cluster.client.Create(f.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "probe"}, Spec: template(nil).Spec}, client.DryRunAll)
		return ok(err), fmt.Sprint(err)
	})
}

// An API server that has just started refuses pods that it cannot judge yet. The source
// runs, so the migration waits, wherever it asks for a pod.
func TestMigrationWaitsForAnAPIServerThatCannotJudgeYet(t *testing.T) {
	for name, c := range map[string]struct {
		migrate func(f *fixture)
		message string
	}{
		"a new name": {func(f *fixture) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "app"}, Spec: template(nil).Spec}
			f.retry(func() error { return cluster.client.Create(f.Context(), pod) })
			eventually(f.T, "the pod to run", func() (bool, string) {
				phase := f.pod("app").Status.Phase
				return phase == corev1.PodRunning, string(phase)
			})
			f.migrate("m", "app")
		}, "copying memory; "},
		"its own name": {func(f *fixture) {
			f.podWithDisk("n1", "n2")
			f.handOver("m", "db")
		}, "copying memory; "},
		"made by a ReplicaSet": {func(f *fixture) {
			f.migrate("m", f.deployment(2)[0].Name)
		}, "converged; "},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.migrate(f)
			f.awaitPhase("m", v1alpha1.PhasePreparing)
			see := f.blind()
			f.toPreCopying("m")
			f.source("m", v1alpha1.SourceConverged)
			f.await("m", "it to wait", func(m *v1alpha1.Migration) bool {
				return m.Status.Phase == v1alpha1.PhasePreCopying && strings.HasPrefix(m.Status.Message, c.message+"waiting until the API server can judge new pods: ")
			})
			see()
			f.toSwitchingOver("m")
		})
	}
}
