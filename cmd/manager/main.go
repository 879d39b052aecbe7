// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command manager runs Godwit's controllers. It needs no rights on its node.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/controllers/webhook"
	"godwit.dev/godwit/internal/migration"
)

// leaderElectionID names the lease that the manager's replicas compete for.
const leaderElectionID = "manager.godwit.dev"

// options are the command line's.
type options struct {
	leaderElect     bool
	leaderNamespace string
	metricsAddress  string
	healthAddress   string
	gateImage       string
	gatePullPolicy  string
	concurrency     int
	limits          migration.Limits
	volumeBandwidth resource.QuantityValue
	// addressAnnotations are separated by commas.
	addressAnnotations string
	logLevel           string
	webhooks           webhookOptions
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.BoolVar(&o.leaderElect, "leader-elect", false, "Let one of several replicas work at a time.")
	flags.StringVar(&o.leaderNamespace, "leader-election-namespace", "", "Namespace of the lease; by default the one the manager runs in.")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8080", "Address of the Prometheus metrics; 0 serves none.")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flags.StringVar(&o.gateImage, "gate-image", "", "Image of the gate of target pods: Godwit's own. Required.")
	flags.StringVar(&o.gatePullPolicy, "gate-image-pull-policy", string(corev1.PullIfNotPresent), "When nodes pull it: Always, IfNotPresent or Never.")
	flags.IntVar(&o.concurrency, "max-concurrent-reconciles", 4, "How many Migrations are looked at side by side.")
	flags.IntVar(&o.limits.Cluster, "max-migrations", 8, "How many migrations go on in the cluster side by side; 0 for no limit.")
	flags.IntVar(&o.limits.SourceNode, "max-migrations-per-source-node", 2, "How many go on away from one node; 0 for no limit.")
	flags.IntVar(&o.limits.TargetNode, "max-migrations-per-target-node", 2, "How many go on to one node; 0 for no limit.")
	flags.Var(&o.volumeBandwidth, "max-volume-bandwidth", "What all that go on may write to the volume per second, as a quantity (200Mi): another one begins only if it fits; 0 for no limit.")
	flags.StringVar(&o.addressAnnotations, "address-annotations", "", "Annotations of pods, separated by commas, by which the cluster's network plugin gives a pod the address that it asks for, beside those of Calico, Kube-OVN and Antrea: for migrations that keep connections.")
	flags.StringVar(&o.logLevel, "log-level", "info", "info or debug")
	o.webhooks.bind(flags)
}

func (o *options) validate() error {
	if o.gateImage == "" {
		return fmt.Errorf("--gate-image is required")
	}
	switch corev1.PullPolicy(o.gatePullPolicy) {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return fmt.Errorf("--gate-image-pull-policy %q is none of Always, IfNotPresent, Never", o.gatePullPolicy)
	}
	if o.concurrency < 1 {
		return fmt.Errorf("--max-concurrent-reconciles must be at least 1")
	}
	if o.limits.VolumeBandwidth = o.volumeBandwidth.Value(); o.limits.VolumeBandwidth < 0 {
		return fmt.Errorf("--max-volume-bandwidth must not be negative")
	}
	for _, name := range o.addresses() {
		if problems := validation.IsQualifiedName(name); len(problems) > 0 {
			return fmt.Errorf("--address-annotations: %q is no annotation: %s", name, strings.Join(problems, "; "))
		}
	}
	if l := o.limits; l.Cluster < 0 || l.SourceNode < 0 || l.TargetNode < 0 {
		return fmt.Errorf("a limit on migrations is negative; 0 is no limit")
	}
	return o.webhooks.validate()
}

// addresses are the annotations of --address-annotations.
func (o *options) addresses() []string {
	return strings.FieldsFunc(o.addressAnnotations, func(r rune) bool { return r == ',' || r == ' ' })
}

// setLogger writes JSON lines, with every key that a reconciler has added: the
// Migration's namespace, name and UID.
func setLogger(level string) error {
	l, err := zapcore.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	ctrl.SetLogger(zap.New(zap.UseDevMode(false), zap.Level(l)))
	return nil
}

func main() {
	var o options
	o.bind(flag.CommandLine)
	flag.Parse()
	if err := setLogger(o.logLevel); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
	if err := run(&o); err != nil {
		ctrl.Log.Error(err, "the manager ends")
		os.Exit(1)
	}
}

func run(o *options) error {
	if err := o.validate(); err != nil {
		return err
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	managerOptions := manager.Options{
		Scheme:                  scheme,
		Cache:                   cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:                 metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:  o.healthAddress,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaderElectionID,
		LeaderElectionNamespace: o.leaderNamespace,
		// main does nothing after the manager has stopped, so the next leader
		// need not wait for the lease to run out.
		LeaderElectionReleaseOnCancel: true,
	}
	certificate := configureWebhooks(&managerOptions, &o.webhooks)
	mgr, err := ctrl.NewManager(config, managerOptions)
	if err != nil {
		return err
	}
	if err := addControllers(mgr, o); err != nil {
		return err
	}
	if err := addWebhooks(mgr, certificate, &o.webhooks, webhook.Options{
		GateImage: o.gateImage, GatePullPolicy: corev1.PullPolicy(o.gatePullPolicy),
	}); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

func addControllers(mgr manager.Manager, o *options) error {
	counted, err := controllers.NewMetrics(metrics.Registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if err := metrics.Registry.Register(controllers.InFlight{Reader: mgr.GetCache()}); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	drains := &controllers.DrainReconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}, Retries: o.webhooks.retries}
	if err := drains.SetupWithManager(mgr); err != nil {
		return err
	}
	return (&controllers.MigrationReconciler{
		Client:                  mgr.GetClient(),
		APIReader:               mgr.GetAPIReader(),
		Recorder:                mgr.GetEventRecorder(v1alpha1.FieldManagerController),
		Clock:                   clock.RealClock{},
		Metrics:                 counted,
		GateImage:               o.gateImage,
		GatePullPolicy:          corev1.PullPolicy(o.gatePullPolicy),
		MaxConcurrentReconciles: o.concurrency,
		Limits:                  o.limits,
		AddressAnnotations:      o.addresses(),
	}).SetupWithManager(mgr)
}
