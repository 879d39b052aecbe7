// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/controllers/webhook"
)

const (
	patience  = 30 * time.Second
	namespace = "godwit-system"
	// startTimeout of the API server: the machine may be busy.
	startTimeout = 3 * time.Minute
)

// TestCertificateIsMadeAndServed starts a manager with the rights that it ships
// with, on what the manifests create, and another that leaves the certificate to
// others. Both serve one that the authority in the configuration has signed for the
// Service.
func TestCertificateIsMadeAndServed(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set; run the test with “make unit”")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ControlPlaneStartTimeout: startTimeout, ControlPlaneStopTimeout: startTimeout}
	config, err := env.Start()
	must(t, err)
	t.Cleanup(func() { must(t, env.Stop()) })
	scheme, err := newScheme()
	must(t, err)
	admin, err := client.New(config, client.Options{Scheme: scheme})
	must(t, err)
	must(t, admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	create(t, admin, "webhook/configuration.yaml", &admissionregistrationv1.ValidatingWebhookConfiguration{})
	create(t, admin, "webhook/pods.yaml", &admissionregistrationv1.MutatingWebhookConfiguration{})
	create(t, admin, "webhook/secret.yaml", &corev1.Secret{})
	user := managerUser(t, env, admin)

	ctx, cancel := context.WithCancel(t.Context())
	ports := []int{replica(ctx, t, user, true), replica(ctx, t, user, false)}
	t.Cleanup(cancel)

	authority := x509.NewCertPool()
	await(t, "the authority in the configuration", func(ctx context.Context) error {
		c := &admissionregistrationv1.ValidatingWebhookConfiguration{}
		if err := admin.Get(ctx, client.ObjectKey{Name: "godwit-webhooks"}, c); err != nil {
			return err
		}
		mutating := &admissionregistrationv1.MutatingWebhookConfiguration{}
		if err := admin.Get(ctx, client.ObjectKey{Name: "godwit-webhooks"}, mutating); err != nil {
			return err
		}
		for _, h := range mutating.Webhooks {
			if !authority.AppendCertsFromPEM(h.ClientConfig.CABundle) {
				return fmt.Errorf("webhook %s has none", h.Name)
			}
		}
		for _, h := range c.Webhooks {
			if !authority.AppendCertsFromPEM(h.ClientConfig.CABundle) {
				return fmt.Errorf("webhook %s has none", h.Name)
			}
		}
		return nil
	})
	for _, port := range ports {
		await(t, "a replica to serve what the authority has signed", func(ctx context.Context) error {
			d := tls.Dialer{Config: &tls.Config{RootCAs: authority, ServerName: "godwit-webhooks.godwit-system.svc"}}
			conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("localhost:%d", port))
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// replica starts a manager, and returns the port that it serves webhooks on.
func replica(ctx context.Context, t *testing.T, config *rest.Config, rotate bool) int {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())
	dir := t.TempDir()
	// kubelet's copy: only that it is there matters.
	must(t, os.WriteFile(filepath.Join(dir, corev1.TLSCertKey), nil, 0o600))
	o := &webhookOptions{port: port, name: "godwit-webhooks", rotate: rotate, dir: dir, namespace: namespace}
	scheme, err := newScheme()
	must(t, err)
	options := manager.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0"}
	certificate := configureWebhooks(&options, o)
	mgr, err := ctrl.NewManager(config, options)
	must(t, err)
	must(t, controllers.AddIndexes(mgr.GetFieldIndexer()))
	must(t, addWebhooks(mgr, certificate, o, webhook.Options{}))
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Errorf("a replica has ended: %v", err)
		}
	})
	return port
}

// managerUser has the rights that are shipped for the manager.
func managerUser(t *testing.T, env *envtest.Environment, admin client.Client) *rest.Config {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", "manager", "role.yaml"))
	must(t, err)
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "manager"}}
	for _, document := range strings.Split(string(raw), "\n---\n") {
		role := &rbacv1.ClusterRole{}
		must(t, yaml.Unmarshal([]byte(document), role))
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: role.Kind, Name: role.Name}
		meta := metav1.ObjectMeta{Name: role.Name}
		if role.Kind == "ClusterRole" {
			must(t, admin.Create(t.Context(), role))
			must(t, admin.Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}))
			continue
		}
		meta.Namespace = namespace
		must(t, admin.Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: role.Rules}))
		must(t, admin.Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}))
	}
	user, err := env.AddUser(envtest.User{Name: "manager"}, nil)
	must(t, err)
	return user.Config()
}

func create(t *testing.T, c client.Client, file string, o client.Object) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "config", file))
	must(t, err)
	must(t, yaml.Unmarshal(raw, o))
	must(t, c.Create(t.Context(), o))
}

func await(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting for %s: %v; last: %v", what, err, last)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
