// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
)

// These tests run the controller against a real API server. They play kubelet,
// the scheduler and both node agents themselves.
var (
	testConfig *rest.Config
	// managerConfig has the manager's rights, and no others.
	managerConfig *rest.Config
	testClient    client.Client
	testScheme    = runtime.NewScheme()
	testKubectl   string
	// kubeconfig is a file that kubectl can be pointed at.
	kubeconfig string
	// errNoServer is why there is no API server to test against.
	errNoServer error
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv("GODWIT_TEST_LOG") != "" {
		ctrl.SetLogger(zap.New(zap.UseDevMode(true)))
	} else {
		ctrl.SetLogger(zap.New(zap.WriteTo(discard{})))
	}
	if testing.Short() {
		return m.Run()
	}
	stop, err := startServer()
	errNoServer = err
	code := m.Run()
	if stop != nil {
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the API server:", err)
			return 1
		}
	}
	return code
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// needServer skips a test under -short, and fails it when there is no server.
func needServer(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an API server; not under -short")
	}
	if errNoServer != nil {
		t.Fatalf("no API server to test against: %v", errNoServer)
	}
}

func startServer() (stop func() error, err error) {
	apiServer, etcd, kubectl, err := binaries()
	if err != nil {
		return nil, err
	}
	testKubectl = kubectl
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(testScheme); err != nil {
			return nil, err
		}
	}
	env := &envtest.Environment{
		Scheme:                testScheme,
		CRDDirectoryPaths:     []string{filepath.Join("..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		// The machine may be busy.
		ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: time.Minute,
	}
	env.ControlPlane.GetAPIServer().Path = apiServer
	env.ControlPlane.Etcd = &envtest.Etcd{Path: etcd}
	env.ControlPlane.KubectlPath = kubectl
	testConfig, err = env.Start()
	if err != nil {
		return nil, errors.Join(err, env.Stop())
	}
	// Tests of a few seconds must not wait for a client's own rate limit.
	testConfig.QPS, testConfig.Burst = 1000, 1000
	if err := prepare(env); err != nil {
		return nil, errors.Join(err, env.Stop())
	}
	return env.Stop, nil
}

func prepare(env *envtest.Environment) error {
	var err error
	if testClient, err = client.New(testConfig, client.Options{Scheme: testScheme}); err != nil {
		return err
	}
	if err := addManager(env); err != nil {
		return err
	}
	user, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return err
	}
	config, err := user.KubeConfig()
	if err != nil {
		return err
	}
	kubeconfig = filepath.Join(env.ControlPlane.GetAPIServer().CertDir, "admin.kubeconfig")
	if err := os.WriteFile(kubeconfig, config, 0o600); err != nil {
		return err
	}
	ctx := context.Background()
	if err := testClient.Create(ctx, &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RuntimeClassName}, Handler: v1alpha1.RuntimeClassName,
	}); err != nil {
		return err
	}
	return createNodes(ctx)
}

// addManager makes a user with the role that is shipped for the manager, so
// that every test fails when a right is missing.
func addManager(env *envtest.Environment) error {
	raw, err := os.ReadFile(filepath.Join("..", "config", "rbac", "manager", "role.yaml"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, document := range strings.Split(string(raw), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			return err
		}
		if role.Kind != "ClusterRole" {
			continue // the lease's; there is no election here
		}
		if err := testClient.Create(ctx, &role); err != nil {
			return err
		}
		if err := testClient.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "manager"}}}); err != nil {
			return err
		}
	}
	user, err := env.AddUser(envtest.User{Name: "manager"}, rest.CopyConfig(testConfig))
	if err != nil {
		return err
	}
	managerConfig = user.Config()
	return nil
}

// createNodes makes the nodes of all tests: n1 and n2 suit each other, the
// others suit nobody.
func createNodes(ctx context.Context) error {
	facts := v1alpha1.NodeFacts{CRIU: "4.1.1", Kernel: "6.12.48+deb13-cloud-amd64", Architecture: "amd64",
		DirtyTracking: true, CPUFeatures: []string{"avx", "avx2"}, XSaveSize: 832}
	arm, old := facts, facts
	arm.Architecture, old.Kernel = "arm64", "5.10.0-30-amd64"
	for name, f := range map[string]v1alpha1.NodeFacts{"n1": facts, "n2": facts, "arm": arm, "old": old} {
		report, err := json.Marshal(f)
		if err != nil {
			return err
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{corev1.LabelHostname: name, v1alpha1.LabelNodeReady: "true"},
			Annotations: map[string]string{v1alpha1.AnnotationNodeFacts: string(report)},
		}}
		if err := testClient.Create(ctx, node); err != nil {
			return err
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if err := testClient.Status().Update(ctx, node); err != nil {
			return err
		}
		// The API server taints new nodes until a controller clears them.
		node.Spec.Taints = nil
		if err := testClient.Update(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// binaries finds the API server, etcd and kubectl: in KUBEBUILDER_ASSETS, or
// among what the test cluster has built.
func binaries() (apiServer, etcd, kubectl string, err error) {
	find := func(name, artifact string) string {
		if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
			return filepath.Join(dir, name)
		}
		return newest(artifact, name)
	}
	apiServer, etcd, kubectl = find("kube-apiserver", "kubernetes"), find("etcd", "etcd"), find("kubectl", "kubernetes")
	var missing []string
	for name, path := range map[string]string{"kube-apiserver": apiServer, "etcd": etcd, "kubectl": kubectl} {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return "", "", "", fmt.Errorf("%s not found: set KUBEBUILDER_ASSETS to a directory that has them, build them once with “make cluster-up”, or leave these tests out with -short", strings.Join(missing, ", "))
	}
	return apiServer, etcd, kubectl, nil
}

// newest finds a program in the youngest artifact of that name in the test
// cluster's cache.
func newest(artifact, name string) string {
	cache := os.Getenv("GODWIT_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(user, "godwit")
	}
	var paths []string
	for _, pattern := range []string{name, filepath.Join("bin", name)} {
		found, err := filepath.Glob(filepath.Join(cache, "artifacts", artifact+"-*[0-9a-f]", pattern))
		if err != nil {
			return ""
		}
		paths = append(paths, found...)
	}
	var best string
	var bestTime int64
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.ModTime().UnixNano() > bestTime {
			best, bestTime = p, info.ModTime().UnixNano()
		}
	}
	return best
}
