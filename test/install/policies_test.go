// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// TestPolicies shows a real API server with the shipped policies what they are
// for. Everybody has all rights in it, so that it is the policies that refuse.
func TestPolicies(t *testing.T) {
	w := newTrustWorld(t)
	t.Run("agents and Migrations", w.testMigrations)
	t.Run("agents and Nodes", w.testNodes)
	t.Run("pods", w.testPods)
	t.Run("CRIU configurations", w.testCRIUConfig)
}

// write is a request that must not change anything when it is let through.
type write func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error

// report applies a side's report as its agent does.
func report(side, fieldManager string, fields map[string]any) write {
	return func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
		u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{side: maps.Clone(fields)}}}
		u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Migration"))
		u.SetNamespace(m.Namespace)
		u.SetName(m.Name)
		return c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
			client.FieldOwner(fieldManager), client.ForceOwnership, client.DryRunAll)
	}
}

// merge sends a merge patch of the status.
func merge(status map[string]any) write {
	return func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
		body, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			return err
		}
		return c.Status().Patch(ctx, m.DeepCopy(), client.RawPatch(types.MergePatchType, body), client.DryRunAll)
	}
}

func register(state v1alpha1.HandoverState, by, digest string) write {
	h := map[string]any{"state": string(state), "by": by, "time": "2026-01-01T00:00:00.000000Z"}
	if digest != "" {
		h["manifestDigest"] = digest
	}
	return merge(map[string]any{"handover": h})
}

func (w *trustWorld) testMigrations(t *testing.T) {
	const refused = "godwit-agent-migrations"
	reporting := func(side, state string) write {
		return report(side, "godwit-"+side+"-agent", map[string]any{"state": state})
	}
	committed := &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: "d", Time: metav1.NowMicro()}
	commit := func(m *v1alpha1.Migration) { m.Status.Handover = committed.DeepCopy() }
	for name, c := range map[string]struct {
		who    string
		status func(*v1alpha1.Migration)
		write  write
		want   string // part of the refusal; "" when it is let through
	}{
		"source reports":             {who: "n1", write: reporting("source", "Frozen")},
		"target reports":             {who: "n2", write: reporting("target", "Parked")},
		"other node as the source":   {who: "n2", write: reporting("source", "Frozen"), want: `status.source belongs to the agent of node "n1", not to that of "n2"`},
		"other node as the target":   {who: "n1", write: reporting("target", "Restored"), want: `status.target belongs to the agent of node "n2", not to that of "n1"`},
		"third node as the source":   {who: "n3", write: reporting("source", "Frozen"), want: "status.source belongs"},
		"third node as the target":   {who: "n3", write: reporting("target", "Restored"), want: "status.target belongs"},
		"a digest of another node's": {who: "n2", write: merge(map[string]any{"source": map[string]any{"manifestDigest": "e"}}), want: "status.source belongs"},
		"a token without a node":     {who: "unbound", write: reporting("source", "Frozen"), want: "names no node"},
		"report removed by another":  {who: "n3", write: merge(map[string]any{"target": nil}), want: "status.target belongs"},
		"taking the source's place":  {who: "n2", write: merge(map[string]any{"source": map[string]any{"nodeName": "n2"}}), want: "status.source belongs"},
		"another pod":                {who: "n1", write: merge(map[string]any{"source": map[string]any{"podUID": "other"}}), want: "the manager alone says which pods"},
		"another target node":        {who: "n2", write: merge(map[string]any{"target": map[string]any{"nodeName": "n3"}}), want: "the manager alone says which pods"},
		"pods removed":               {who: "n1", write: merge(map[string]any{"source": map[string]any{"podName": nil}}), want: "the manager alone says which pods"},
		"the phase":                  {who: "n2", write: merge(map[string]any{"phase": "Succeeded"}), want: "nothing of a Migration's status but"},
		"the phase removed":          {who: "n1", write: merge(map[string]any{"phase": nil}), want: "nothing of a Migration's status but"},
		"a failure":                  {who: "n1", write: merge(map[string]any{"failure": map[string]any{"reason": "X"}}), want: "nothing of a Migration's status but"},
		"conditions": {who: "n1", write: merge(map[string]any{"conditions": []any{map[string]any{"type": "Complete", "status": "True", "reason": "X", "message": "",
			"lastTransitionTime": "2026-01-01T00:00:00Z"}}}), want: "nothing of a Migration's status but"},
		"everything removed": {who: "n1", write: func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
			return c.Status().Patch(ctx, m.DeepCopy(), client.RawPatch(types.JSONPatchType, []byte(`[{"op":"remove","path":"/status"}]`)), client.DryRunAll)
		}, want: "nothing of a Migration's status but"},
		"metadata": {who: "n1", write: func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
			return c.Patch(ctx, m.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)), client.DryRunAll)
		}, want: "nothing of a Migration but its status"},
		"annotations": {who: "n1", write: func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
			return c.Patch(ctx, m.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"godwit.dev/cancel":"true"}}}`)), client.DryRunAll)
		}, want: "nothing of a Migration but its status"},
		"deletion": {who: "n1", write: func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
			return c.Delete(ctx, m.DeepCopy(), client.DryRunAll)
		}, want: "nothing of a Migration but its status"},
		"creation": {who: "n1", write: func(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
			return c.Create(ctx, newMigration("forged"), client.DryRunAll)
		}, want: "nothing of a Migration but its status"},

		"commit":                       {who: "n2", write: register("Committed", "target/n2", "d")},
		"commit by the source":         {who: "n1", write: register("Committed", "target/n2", "d"), want: "hand-over register"},
		"commit as the source":         {who: "n1", write: register("Committed", "source/n1", "d"), want: "hand-over register"},
		"commit by a third node":       {who: "n3", write: register("Committed", "target/n3", "d"), want: "hand-over register"},
		"commit in another's name":     {who: "n2", write: register("Committed", "target/n1", "d"), want: "hand-over register"},
		"commit to another digest":     {who: "n2", write: register("Committed", "target/n2", "e"), want: "hand-over register"},
		"commit before the switchover": {who: "n2", status: func(m *v1alpha1.Migration) { m.Status.Phase = v1alpha1.PhasePreCopying }, write: register("Committed", "target/n2", "d"), want: "hand-over register"},
		"commit after the rollback":    {who: "n2", status: func(m *v1alpha1.Migration) { m.Status.Phase = v1alpha1.PhaseRollingBack }, write: register("Committed", "target/n2", "d"), want: "hand-over register"},
		"abort":                        {who: "n1", write: register("Aborted", "source/n1", "")},
		"abort by the target":          {who: "n2", write: register("Aborted", "target/n2", ""), want: "hand-over register"},
		"abort in the source's name":   {who: "n2", write: register("Aborted", "source/n1", ""), want: "hand-over register"},
		"abort by a third node":        {who: "n3", write: register("Aborted", "source/n3", ""), want: "hand-over register"},
		"abort in the manager's name":  {who: "n1", write: register("Aborted", "controller", ""), want: "hand-over register"},
		"take back":                    {who: "n2", status: commit, write: register("Aborted", "target/n2", "")},
		"take back in another's name":  {who: "n1", status: commit, write: register("Aborted", "target/n2", ""), want: "hand-over register"},
		"report under a commit":        {who: "n1", status: commit, write: reporting("source", "Killed")},
	} {
		t.Run(name, func(t *testing.T) {
			m := w.migration(t, c.status)
			expect(t, c.write(t.Context(), w.as(c.who), m), refused, c.want)
		})
	}

	t.Run("metadata beside the status stays as it is", func(t *testing.T) {
		m := w.migration(t, nil)
		got := m.DeepCopy()
		must(t, w.as("n1").Status().Patch(t.Context(), got, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"a":"b"},"finalizers":null},"status":{"source":{"state":"Frozen"}}}`)), client.DryRunAll))
		if got.Labels["a"] != "" || len(got.Finalizers) != 1 || got.Status.Source.State != v1alpha1.SourceFrozen {
			t.Errorf("labels %v finalizers %v source %+v", got.Labels, got.Finalizers, got.Status.Source)
		}
	})
	t.Run("the manager and people are not held", func(t *testing.T) {
		for _, who := range []string{"manager", "admin"} {
			m := w.migration(t, nil)
			expect(t, merge(map[string]any{"phase": "RollingBack"})(t.Context(), w.as(who), m), refused, "")
		}
	})
}

func (w *trustWorld) testNodes(t *testing.T) {
	const refused = "godwit-agent-nodes"
	apply := func(node string, metadata map[string]any) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			all := map[string]any{"name": node}
			maps.Copy(all, metadata)
			u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": all}}
			return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
				client.FieldOwner(v1alpha1.FieldManagerNode), client.ForceOwnership, client.DryRunAll)
		}
	}
	patch := func(node, body string) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			return c.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, client.RawPatch(types.MergePatchType, []byte(body)), client.DryRunAll)
		}
	}
	facts := map[string]any{
		"labels":      map[string]any{v1alpha1.LabelNodeReady: "true", v1alpha1.LabelNodeDirtyTracking: "true"},
		"annotations": map[string]any{v1alpha1.AnnotationNodeFacts: "{}"},
	}
	for name, c := range map[string]struct {
		who   string
		write func(context.Context, client.Client) error
		want  string
	}{
		"its own facts":          {"n1", apply("n1", facts), ""},
		"another node's facts":   {"n1", apply("n2", facts), "no Node but its own"},
		"a node that is not":     {"n1", apply("n9", facts), "no Node but its own"},
		"a token without a node": {"unbound", apply("n1", facts), "names no node"},
		"another label":          {"n1", patch("n1", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`), "only labels and annotations that begin"},
		"a label changed":        {"n1", patch("n1", `{"metadata":{"labels":{"zone":"b"}}}`), "only labels and annotations that begin"},
		"a label removed":        {"n1", patch("n1", `{"metadata":{"labels":{"zone":null}}}`), "only labels and annotations that begin"},
		"a similar label":        {"n1", patch("n1", `{"metadata":{"labels":{"godwit.dev.evil/x":"y"}}}`), "only labels and annotations that begin"},
		"another annotation":     {"n1", patch("n1", `{"metadata":{"annotations":{"a":"b"}}}`), "only labels and annotations that begin"},
		"taints":                 {"n1", patch("n1", `{"spec":{"taints":null,"unschedulable":true}}`), "nothing of its Node but labels"},
		"finalizers":             {"n1", patch("n1", `{"metadata":{"finalizers":["a/b"]}}`), "nothing of its Node but labels"},
		"status": {"n1", func(ctx context.Context, c client.Client) error {
			return c.Status().Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
				client.RawPatch(types.MergePatchType, []byte(`{"status":{"capacity":{"x/y":"1"}}}`)), client.DryRunAll)
		}, "no Node but its own"},
		"deletion": {"n1", func(ctx context.Context, c client.Client) error {
			return c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, client.DryRunAll)
		}, "no Node but its own"},
		"somebody else": {"admin", patch("n1", `{"metadata":{"labels":{"zone":"b"}}}`), ""},
	} {
		t.Run(name, func(t *testing.T) { expect(t, c.write(t.Context(), w.as(c.who)), refused, c.want) })
	}
}

func (w *trustWorld) testPods(t *testing.T) {
	const (
		refused  = "godwit-pods"
		reserved = "written by Godwit's manager alone"
	)
	// The very pod that the manager makes, really stored.
	m := w.migration(t, nil)
	target := migration.BuildTargetPod(plainPod("web"), m, "gate", corev1.PullIfNotPresent, []string{"n2"})
	must(t, w.as("manager").Create(t.Context(), target))

	create := func(change func(*corev1.Pod)) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			pod := plainPod("new")
			change(pod)
			return c.Create(ctx, pod, client.DryRunAll)
		}
	}
	patch := func(body string) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			return c.Patch(ctx, target.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(body)), client.DryRunAll)
		}
	}
	godwit := func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName) }
	label := func(p *corev1.Pod) { p.Labels = map[string]string{v1alpha1.LabelMigration: string(m.UID)} }
	// Whether such a pod is a target is for the webhook to say.
	replicaSet := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "1", Controller: ptr.To(true)}}
	}
	annotation := func(p *corev1.Pod) {
		p.Annotations = map[string]string{v1alpha1.AnnotationMigration: m.Namespace + "/" + m.Name}
	}
	mptcp := map[string]string{runtime.LabelMultipathTCP: runtime.MultipathTCPOff}
	for name, c := range map[string]struct {
		who   string
		write func(context.Context, client.Client) error
		want  string
	}{
		"a usual pod":                {"admin", create(func(*corev1.Pod) {}), ""},
		"the manager's":              {"manager", create(func(p *corev1.Pod) { godwit(p); label(p); annotation(p) }), ""},
		"RuntimeClass":               {"admin", create(godwit), "RuntimeClass godwit is for the target pods"},
		"RuntimeClass by an agent":   {"n1", create(godwit), "RuntimeClass godwit is for the target pods"},
		"a controller's target":      {"admin", create(func(p *corev1.Pod) { godwit(p); label(p); annotation(p); replicaSet(p) }), ""},
		"of another kind":            {"admin", create(func(p *corev1.Pod) { godwit(p); label(p); replicaSet(p); p.OwnerReferences[0].Kind = "DaemonSet" }), "RuntimeClass godwit is for the target pods"},
		"a controller's, unlabelled": {"admin", create(func(p *corev1.Pod) { godwit(p); replicaSet(p) }), "RuntimeClass godwit is for the target pods"},
		"label":                      {"admin", create(label), reserved},
		"label of people's own":      {"admin", create(func(p *corev1.Pod) { p.Labels = mptcp }), ""},
		"it, changed":                {"admin", patch(`{"metadata":{"labels":{"godwit.dev/mptcp":"off"}}}`), ""},
		"it, as an annotation":       {"admin", create(func(p *corev1.Pod) { p.Annotations = mptcp }), reserved},
		"annotation":                 {"admin", create(annotation), reserved},
		"another annotation of ours": {"admin", create(func(p *corev1.Pod) { p.Annotations = map[string]string{"godwit.dev/x": ""} }), reserved},
		"annotation changed":         {"admin", patch(`{"metadata":{"annotations":{"godwit.dev/migration":"a/b"}}}`), reserved},
		"annotation removed":         {"admin", patch(`{"metadata":{"annotations":{"godwit.dev/migration":null}}}`), reserved},
		"label changed":              {"admin", patch(`{"metadata":{"labels":{"godwit.dev/migration":"x"}}}`), reserved},
		"label removed":              {"admin", patch(`{"metadata":{"labels":{"godwit.dev/migration":null}}}`), reserved},
		"something else changed":     {"admin", patch(`{"metadata":{"labels":{"app":"x"},"annotations":{"a":"b"}}}`), ""},
	} {
		t.Run(name, func(t *testing.T) { expect(t, c.write(t.Context(), w.as(c.who)), refused, c.want) })
	}
	t.Run("its status and its end", func(t *testing.T) {
		must(t, w.as("admin").Status().Patch(t.Context(), target.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`))))
		must(t, w.as("admin").Delete(t.Context(), target.DeepCopy()))
	})
}

func (w *trustWorld) testCRIUConfig(t *testing.T) {
	const (
		refused = "godwit-criu-config"
		why     = "can run programs as root"
	)
	with := func(key, value string) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			pod := plainPod("new")
			pod.Annotations = map[string]string{key: value}
			return c.Create(ctx, pod, client.DryRunAll)
		}
	}
	patch := func(pod, body string) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			return c.Patch(ctx, plainPod(pod), client.RawPatch(types.MergePatchType, []byte(body)), client.DryRunAll)
		}
	}
	must(t, w.as("admin").Create(t.Context(), plainPod("plain")))
	for name, c := range map[string]struct {
		who   string
		write func(context.Context, client.Client) error
		want  string
	}{
		"created":              {"admin", with("org.criu.config", "/tmp/x.conf"), why},
		"created by manager":   {"manager", with("org.criu.config", "/tmp/x.conf"), why},
		"empty":                {"admin", with("org.criu.config", ""), why},
		"of one container":     {"admin", with("org.criu.config/app", "/tmp/x.conf"), why},
		"a similar annotation": {"admin", with("org.criu.configuration", "x"), ""},
		"added later":          {"admin", patch("plain", `{"metadata":{"annotations":{"org.criu.config":"/tmp/x.conf"}}}`), why},
		// "old" is from before the policies.
		"old one kept":    {"admin", patch("old", `{"metadata":{"labels":{"a":"b"}}}`), ""},
		"old one changed": {"admin", patch("old", `{"metadata":{"annotations":{"org.criu.config":"/tmp/y.conf"}}}`), why},
		"old one removed": {"admin", patch("old", `{"metadata":{"annotations":{"org.criu.config":null}}}`), ""},
	} {
		t.Run(name, func(t *testing.T) { expect(t, c.write(t.Context(), w.as(c.who)), refused, c.want) })
	}
}

// TestAgentsRoleIsSmall asks the API server what the shipped role lets an agent
// do; the policies come on top of it.
func TestAgentsRoleIsSmall(t *testing.T) {
	w := startTrustWorld(t)
	for _, q := range []struct {
		verb, group, resource, subresource string
		want                               bool
	}{
		{"patch", "godwit.dev", "migrations", "status", true},
		{"watch", "godwit.dev", "migrations", "", true},
		{"watch", "", "pods", "", true},
		{"get", "", "nodes", "", true},
		{"patch", "", "nodes", "", true},
		{"update", "godwit.dev", "migrations", "status", false},
		{"patch", "godwit.dev", "migrations", "", false},
		{"create", "godwit.dev", "migrations", "", false},
		{"delete", "godwit.dev", "migrations", "", false},
		{"create", "", "pods", "", false},
		{"patch", "", "pods", "", false},
		{"delete", "", "pods", "", false},
		{"create", "", "pods", "exec", false},
		{"get", "", "secrets", "", false},
		{"list", "", "nodes", "", false},
		{"update", "", "nodes", "", false},
		{"patch", "", "nodes", "status", false},
		{"delete", "", "nodes", "", false},
		{"create", "", "serviceaccounts", "token", false},
	} {
		if got := w.allowed(t, agentUser, q.verb, q.group, q.resource, q.subresource); got != q.want {
			t.Errorf("%s %s/%s %s: allowed is %v", q.verb, q.group, q.resource, q.subresource, got)
		}
	}
}

// expect fails unless a request was refused by that policy with those words, or
// let through when there are none.
func expect(t *testing.T, err error, policy, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("let through; want %q", want)
	case want != "" && (!apierrors.IsForbidden(err) || !contains(err, "'"+policy+"'", want)):
		t.Errorf("got %v, want %s to say %q", err, policy, want)
	}
}
