// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"godwit.dev/godwit/api/v1alpha1"
)

const (
	tenant      = "tenant"
	agentUser   = "system:serviceaccount:" + namespace + ":godwit-agent"
	managerName = "godwit-manager"
	agentName   = "godwit-agent"
)

// trustWorld is an API server with the shipped roles, and clients of several
// parties with real tokens.
type trustWorld struct {
	config  *rest.Config
	scheme  *runtime.Scheme
	clients map[string]client.Client
	made    int
}

// startTrustWorld starts the API server and installs definitions and roles.
func startTrustWorld(t *testing.T) *trustWorld {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" && os.Getenv("TEST_ASSET_KUBE_APISERVER") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set; run the test with “make unit”")
	}
	w := &trustWorld{scheme: runtime.NewScheme(), clients: map[string]client.Client{}}
	must(t, clientgoscheme.AddToScheme(w.scheme))
	must(t, v1alpha1.AddToScheme(w.scheme))
	environment := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join(root, "config", "crd", "bases")}, ErrorIfCRDPathMissing: true}
	config, err := environment.Start()
	must(t, err)
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	config.QPS, config.Burst = 1000, 1000
	w.config = config
	w.clients["admin"] = w.client(t, config)
	for _, name := range []string{namespace, tenant} {
		must(t, w.as("admin").Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	w.create(t, "config/rbac/agent/role.yaml", "config/rbac/agent/account.yaml", "config/rbac/manager/role.yaml", "config/rbac/manager/account.yaml")
	return w
}

// newTrustWorld adds nodes, agents with their tokens, and the policies, once
// they are in force. Agents are given every right.
func newTrustWorld(t *testing.T) *trustWorld {
	t.Helper()
	w := startTrustWorld(t)
	admin := w.as("admin")
	must(t, admin.Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "agents-may-everything"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: agentName}}}))
	must(t, admin.Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RuntimeClassName}, Handler: v1alpha1.RuntimeClassName}))
	for _, node := range []string{"n1", "n2", "n3"} {
		must(t, admin.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"zone": "a"}}}))
		pod := plainPod("agent-" + node)
		pod.Namespace, pod.Spec.NodeName, pod.Spec.ServiceAccountName = namespace, node, agentName
		must(t, admin.Create(t.Context(), pod))
		w.clients[node] = w.client(t, w.token(t, agentName, pod))
	}
	w.clients["unbound"] = w.client(t, w.token(t, agentName, nil))
	w.clients["manager"] = w.client(t, w.token(t, managerName, nil))
	old := plainPod("old")
	old.Annotations = map[string]string{"org.criu.config": "/tmp/x.conf"}
	must(t, admin.Create(t.Context(), old))

	files, err := filepath.Glob(root + "/config/admission/*.yaml")
	must(t, err)
	for _, f := range files {
		if filepath.Base(f) != "kustomization.yaml" {
			w.create(t, strings.TrimPrefix(f, root+"/"))
		}
	}
	w.awaitPolicies(t)
	return w
}

// awaitPolicies waits until each policy refuses something: the API server says
// in no other way that it has taken one up.
func (w *trustWorld) awaitPolicies(t *testing.T) {
	t.Helper()
	m := w.migration(t, nil)
	probes := map[string]func(context.Context) error{
		"godwit-agent-migrations": func(ctx context.Context) error { return w.as("n1").Delete(ctx, m.DeepCopy(), client.DryRunAll) },
		"godwit-agent-nodes": func(ctx context.Context) error {
			return w.as("n1").Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, client.DryRunAll)
		},
		"godwit-pods": func(ctx context.Context) error {
			p := plainPod("probe")
			p.Labels = map[string]string{v1alpha1.LabelMigration: "x"}
			return w.as("admin").Create(ctx, p, client.DryRunAll)
		},
		"godwit-criu-config": func(ctx context.Context) error {
			p := plainPod("probe")
			p.Annotations = map[string]string{"org.criu.config": ""}
			return w.as("admin").Create(ctx, p, client.DryRunAll)
		},
	}
	for policy, probe := range probes {
		var last error
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			last = probe(ctx)
			return apierrors.IsForbidden(last) && contains(last, policy), nil
		})
		if err != nil {
			t.Fatalf("%s is not in force: %v; it last said: %v", policy, err, last)
		}
	}
}

// as returns the client of a party: a node's agent by the node's name, an agent
// "unbound" to any pod, the "manager", or an "admin" with every right.
func (w *trustWorld) as(who string) client.Client { return w.clients[who] }

func (w *trustWorld) client(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: w.scheme})
	must(t, err)
	return c
}

// token asks for a service account's token as kubelet does, bound to a pod.
func (w *trustWorld) token(t *testing.T, account string, pod *corev1.Pod) *rest.Config {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	must(t, w.as("admin").SubResource("token").Create(t.Context(), sa, request))
	config := rest.AnonymousClientConfig(w.config)
	config.BearerToken = request.Status.Token
	config.QPS, config.Burst = 1000, 1000
	return config
}

// create creates what files of the repository hold.
func (w *trustWorld) create(t *testing.T, files ...string) {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(root, f))
		must(t, err)
		for _, o := range parse(t, b) {
			must(t, w.as("admin").Create(t.Context(), o))
		}
	}
}

func newMigration(name string) *v1alpha1.Migration {
	return &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name, Finalizers: []string{v1alpha1.Finalizer}},
		Spec: v1alpha1.MigrationSpec{PodName: "web"}}
}

// migration stores a Migration from n1 to n2 in the middle of its switchover.
func (w *trustWorld) migration(t *testing.T, change func(*v1alpha1.Migration)) *v1alpha1.Migration {
	t.Helper()
	w.made++
	m := newMigration(fmt.Sprintf("m%d", w.made))
	must(t, w.as("admin").Create(t.Context(), m))
	m.Status.Phase = v1alpha1.PhaseSwitchingOver
	m.Status.Message = "switching over"
	m.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "web", PodUID: "u1"},
		SourceReport: v1alpha1.SourceReport{State: v1alpha1.SourceDumped, ManifestDigest: "d"}}
	m.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: "web-2", PodUID: "u2"},
		TargetReport: v1alpha1.TargetReport{State: v1alpha1.TargetParked}}
	if change != nil {
		change(m)
	}
	must(t, w.as("admin").Status().Update(t.Context(), m))
	return m
}

func plainPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
}

// allowed asks what the roles let somebody do, policies aside.
func (w *trustWorld) allowed(t *testing.T, user, verb, group, resource, subresource string) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user,
		Groups:             []string{"system:serviceaccounts", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: tenant, Verb: verb, Group: group, Version: "*", Resource: resource, Subresource: subresource, Name: "x"}}}
	must(t, w.as("admin").Create(t.Context(), review))
	return review.Status.Allowed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contains(err error, parts ...string) bool {
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			return false
		}
	}
	return true
}
