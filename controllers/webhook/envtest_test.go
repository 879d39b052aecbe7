// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/internal/migration"
)

// These tests have a real API server call the webhooks by the configuration that is
// shipped.
var (
	testConfig *rest.Config
	testClient client.Client
	// testCache is what the webhooks decide on.
	testCache   client.Client
	kubeconfig  string
	testKubectl string
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctrl.SetLogger(zap.New(zap.WriteTo(discard{})))
	if testing.Short() || os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return m.Run()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop, err := startServer(ctx)
	if stop != nil {
		// An API server does not stop while it has watchers.
		defer func() { cancel(); stop() }()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the API server:", err)
		return 1
	}
	return m.Run()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// needServer skips a test when there is no API server to test against.
func needServer(t testing.TB) {
	t.Helper()
	if testClient == nil {
		t.Skip("KUBEBUILDER_ASSETS is not set; run the test with “make unit”")
	}
}

func startServer(ctx context.Context) (stop func(), err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	root := filepath.Join("..", "..")
	env := &envtest.Environment{
		Scheme:                scheme,
		CRDDirectoryPaths:     []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		// The machine may be busy.
		ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: time.Minute,
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{filepath.Join(root, "config", "webhook", "configuration.yaml")}},
	}
	stop = func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the API server:", err)
		}
	}
	if testConfig, err = env.Start(); err != nil {
		return stop, err
	}
	testConfig.QPS, testConfig.Burst = 5000, 5000
	testKubectl = filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	kubeconfig = filepath.Join(env.ControlPlane.GetAPIServer().CertDir, "admin.kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		return stop, err
	}
	if err := serve(ctx, scheme, env); err != nil {
		return stop, err
	}
	testClient, err = client.New(testConfig, client.Options{Scheme: scheme})
	return stop, err
}

// serve starts a manager that has the webhooks and nothing else.
func serve(ctx context.Context, scheme *runtime.Scheme, env *envtest.Environment) error {
	local := env.WebhookInstallOptions
	mgr, err := ctrl.NewManager(testConfig, manager.Options{
		Scheme:  scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		WebhookServer: ctrlwebhook.NewServer(ctrlwebhook.Options{
			Host: local.LocalServingHost, Port: local.LocalServingPort, CertDir: local.LocalServingCertDir}),
	})
	if err != nil {
		return err
	}
	if err := controllers.AddIndexes(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	Setup(mgr, Options{GateImage: "godwit:test", Retries: migration.Retries{Budget: 3, Backoff: 600 * time.Millisecond, Cap: 10 * time.Second}})
	testCache = mgr.GetClient()
	failed := make(chan error, 1)
	go func() { failed <- mgr.Start(ctx) }()
	checker := mgr.GetWebhookServer().StartedChecker()
	for deadline := time.Now().Add(patience); checker(nil) != nil; {
		select {
		case err := <-failed:
			return err
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return checker(nil)
		}
	}
	// The informers that the webhooks need come up with the first question.
	return testCache.List(ctx, &v1alpha1.MigrationList{}, client.MatchingFields{controllers.IndexPods: "x"})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespace makes one, in which evictions fail without the webhooks if it has that
// label, and returns its name.
func namespace(t testing.TB, labels ...string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "evictions-", Labels: map[string]string{}}}
	for _, l := range labels {
		ns.Labels[l] = "Fail"
	}
	must(t, testClient.Create(t.Context(), ns))
	return ns.Name
}
