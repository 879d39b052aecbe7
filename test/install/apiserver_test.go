// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestAPIServerTakesEverything applies what both ways render to a real API
// server, without storing it: defaults, validation and strict decoding all
// happen.
func TestAPIServerTakesEverything(t *testing.T) {
	kubectl := program(t, "KUBECTL")
	if os.Getenv("KUBEBUILDER_ASSETS") == "" && os.Getenv("TEST_ASSET_KUBE_APISERVER") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set; run the test with “make unit”")
	}
	kubeconfig := startAPIServer(t)

	dryRun := func(t *testing.T, manifests []byte) {
		t.Helper()
		cmd := exec.Command(kubectl, "--kubeconfig", kubeconfig, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
		cmd.Stdin = bytes.NewReader(manifests)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("kubectl apply: %v\n%s", err, out)
		}
	}
	t.Run("kustomize", func(t *testing.T) {
		manifests, _ := kustomize(t)
		dryRun(t, manifests)
	})
	for name, settings := range map[string][]string{
		"chart":                     nil,
		"chart with other settings": {"images.storageClassName=-", "images.volumeName=v", "manager.replicas=3", "logLevel=debug", "imagePullSecrets[0].name=s"},
	} {
		t.Run(name, func(t *testing.T) {
			manifests, err := template(t, settings...)
			if err != nil {
				t.Fatal(err)
			}
			dryRun(t, manifests)
		})
	}
}

// startAPIServer starts an API server with the release's namespace, and returns
// the path of a configuration for it.
func startAPIServer(t *testing.T) string {
	t.Helper()
	// The machine may be busy.
	environment := &envtest.Environment{ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, environment.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
