// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/controllers/webhook"
)

const root = "../.."

// world is an API server with its controllers.
type world struct {
	env     *envtest.Environment
	config  *rest.Config
	manager *rest.Config
	client  client.WithWatch
	scheme  *runtime.Scheme
}

// cluster is shared by all tests; nil without an API server.
var cluster *world

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		fmt.Println("owners: skipped, KUBEBUILDER_ASSETS is not set; run the tests with “make unit”")
		return 0
	}
	if os.Getenv("GODWIT_TEST_LOG") != "" {
		ctrl.SetLogger(zap.New(zap.UseDevMode(true)))
	} else {
		ctrl.SetLogger(zap.New(zap.WriteTo(discard{})))
	}
	w, stop, err := start(assets)
	if err != nil {
		fmt.Fprintln(os.Stderr, "owners:", errors.Join(err, stop()))
		return 1
	}
	cluster = w
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "owners:", err)
		return 1
	}
	return code
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// start starts the API server, then the controllers of the same build.
func start(assets string) (w *world, stop func() error, err error) {
	w = &world{scheme: runtime.NewScheme()}
	stop = func() error { return nil }
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(w.scheme); err != nil {
			return w, stop, err
		}
	}
	w.env = &envtest.Environment{
		ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: time.Minute, // the machine may be busy
		Scheme: w.scheme, CRDDirectoryPaths: []string{filepath.Join(root, "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{
			Paths: []string{filepath.Join(root, "config", "webhook", "configuration.yaml"), filepath.Join(root, "config", "webhook", "pods.yaml")},
		},
	}
	stop = w.env.Stop
	if w.config, err = w.env.Start(); err != nil {
		return w, stop, err
	}
	w.config.QPS, w.config.Burst = 1000, 1000
	if w.client, err = client.NewWithWatch(w.config, client.Options{Scheme: w.scheme}); err != nil {
		return w, stop, err
	}
	if err := w.prepare(); err != nil {
		return w, stop, err
	}
	end, err := w.controllerManager(assets)
	if err != nil {
		return w, stop, err
	}
	return w, func() error { return errors.Join(end(), w.env.Stop()) }, nil
}

func (w *world) prepare() error {
	ctx := context.Background()
	if err := w.roles(ctx); err != nil {
		return err
	}
	user, err := w.env.AddUser(envtest.User{Name: "system:serviceaccount:godwit-system:godwit-manager"}, rest.CopyConfig(w.config))
	if err != nil {
		return err
	}
	w.manager = user.Config()
	if err := w.client.Create(ctx, &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RuntimeClassName}, Handler: v1alpha1.RuntimeClassName}); err != nil {
		return err
	}
	if err := w.policies(ctx); err != nil {
		return err
	}
	facts, err := json.Marshal(v1alpha1.NodeFacts{CRIU: "4.1.1", Kernel: "6.12.48", Architecture: "amd64",
		DirtyTracking: true, CPUFeatures: []string{"avx"}, XSaveSize: 832})
	if err != nil {
		return err
	}
	for _, name := range []string{"n1", "n2"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels:      map[string]string{corev1.LabelHostname: name, v1alpha1.LabelNodeReady: "true"},
			Annotations: map[string]string{v1alpha1.AnnotationNodeFacts: string(facts)}}}
		if err := w.client.Create(ctx, node); err != nil {
			return err
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if err := w.client.Status().Update(ctx, node); err != nil {
			return err
		}
		node.Spec.Taints = nil
		if err := w.client.Update(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// roles gives the manager what is shipped for it, so that a missing right fails
// the tests.
func (w *world) roles(ctx context.Context) error {
	return w.each(filepath.Join(root, "config", "rbac", "manager", "role.yaml"), func(document []byte) error {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal(document, &role); err != nil || role.Kind != "ClusterRole" {
			return err
		}
		if err := w.client.Create(ctx, &role); err != nil {
			return err
		}
		return w.client.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "system:serviceaccount:godwit-system:godwit-manager"}}})
	})
}

// policies installs the shipped admission policies for pods.
func (w *world) policies(ctx context.Context) error {
	for _, name := range []string{"pods.yaml", "same-name.yaml"} {
		if err := w.each(filepath.Join(root, "config", "admission", name), func(document []byte) error {
			o, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
			if err != nil {
				return err
			}
			return w.client.Create(ctx, o.(client.Object))
		}); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) each(file string, do func(document []byte) error) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, document := range strings.Split(string(raw), "\n---\n") {
		if err := do([]byte(document)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// controllerManager starts the real controllers that have to do with the pods'
// owners, Services and budgets.
func (w *world) controllerManager(assets string) (stop func() error, err error) {
	apiServer, err := filepath.EvalSymlinks(filepath.Join(assets, "kube-apiserver"))
	if err != nil {
		return nil, err
	}
	dir := w.env.ControlPlane.GetAPIServer().CertDir
	user, err := w.env.AddUser(envtest.User{Name: "system:kube-controller-manager", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "kube-controller-manager.kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(apiServer), "kube-controller-manager"),
		"--kubeconfig="+file, "--leader-elect=false", "--secure-port=0", "--v=4",
		"--controllers=replicaset-controller,deployment-controller,statefulset-controller,job-controller,garbage-collector-controller,endpointslice-controller,disruption-controller,namespace-controller",
		"--kube-api-qps=500", "--kube-api-burst=500")
	log, err := os.Create(filepath.Join(dir, "kube-controller-manager.log"))
	if err != nil {
		return nil, err
	}
	if name := os.Getenv("GODWIT_TEST_CONTROLLERS_LOG"); name != "" {
		if log, err = os.Create(name); err != nil {
			return nil, err
		}
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return log.Close()
	}, nil
}

// runManager runs the reconciler and the webhooks for one namespace, until the
// returned function is called.
func (w *world) runManager(t *testing.T, namespace string, serve bool) (stop func()) {
	t.Helper()
	skip := true
	options := ctrl.Options{
		Scheme:     w.scheme,
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}, DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	}
	if serve {
		hooks := w.env.WebhookInstallOptions
		options.WebhookServer = ctrlwebhook.NewServer(ctrlwebhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir})
	}
	mgr, err := ctrl.NewManager(w.manager, options)
	must(t, err)
	metrics, err := controllers.NewMetrics(prometheus.NewRegistry())
	must(t, err)
	must(t, (&controllers.MigrationReconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder(v1alpha1.FieldManagerController),
		Clock: clock.RealClock{}, Metrics: metrics, GateImage: "godwit:test", GatePullPolicy: corev1.PullIfNotPresent, MaxConcurrentReconciles: 4,
	}).SetupWithManager(mgr))
	if serve {
		webhook.Setup(mgr, webhook.Options{GateImage: "godwit:test", GatePullPolicy: corev1.PullIfNotPresent})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	if serve {
		hooks := w.env.WebhookInstallOptions
		address := net.JoinHostPort(hooks.LocalServingHost, strconv.Itoa(hooks.LocalServingPort))
		eventually(t, "the webhooks to be served", func() (bool, string) {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return false, err.Error()
			}
			return c.Close() == nil, ""
		})
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager ended with: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a condition holds, which says what there is instead.
func eventually(t *testing.T, what string, condition func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	var last string
	for tick := time.NewTicker(20 * time.Millisecond); time.Now().Before(deadline); <-tick.C {
		ok, is := condition()
		if ok {
			return
		}
		last = is
	}
	t.Fatalf("waited in vain for %s; last: %s", what, last)
}
