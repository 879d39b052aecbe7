// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
)

func (f *fixture) kubectl(args ...string) string {
	f.Helper()
	out, err := f.tryKubectl(args...)
	f.must(err, "kubectl %s: %s", strings.Join(args, " "), out)
	return out
}

func (f *fixture) tryKubectl(args ...string) (string, error) {
	cmd := exec.CommandContext(f.ctx, testKubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+f.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Every field says what it means; kubectl explain shows just that.
func TestEveryFieldIsDocumented(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "config", "crd", "bases", "godwit.dev_migrations.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(raw, &crd); err != nil {
		t.Fatal(err)
	}
	fields := 0
	var walk func(path string, s *apiextensionsv1.JSONSchemaProps)
	walk = func(path string, s *apiextensionsv1.JSONSchemaProps) {
		for name, p := range s.Properties {
			child := path + "." + name
			if child == ".metadata" {
				continue // described by Kubernetes
			}
			fields++
			if strings.TrimSpace(p.Description) == "" {
				t.Errorf("%s has no description", child)
			}
			walk(child, &p)
		}
		if s.Items != nil && s.Items.Schema != nil {
			walk(path, s.Items.Schema)
		}
	}
	walk("", crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	if fields < 80 {
		t.Errorf("found only %d fields", fields)
	}
}

func TestKubectlExplains(t *testing.T) {
	f := newNamespace(t)
	for path, says := range map[string]string{
		"mig":                                  "one attempt to move one running pod",
		"mig.spec.preCopy.onStall":             "Abort leaves the source running",
		"mig.status.handover":                  "the register that decides",
		"mig.status.source.containers.rounds":  "pagesSkipped",
		"mig.status.downtime.handover":         "two nodes' clocks",
		"mig.status.target.containers.restore": "until the processes ran",
	} {
		// The API server publishes a new definition's schema with a delay.
		var out string
		f.until("kubectl explain "+path, func() bool {
			raw, err := f.tryKubectl("explain", path)
			out = strings.Join(strings.Fields(raw), " ")
			return err == nil && strings.Contains(out, says)
		}, func() string { return "want it to say " + says + ": " + out })
	}
}

func TestKubectlGetTellsTheStory(t *testing.T) {
	f := newNamespace(t)
	m := f.create("move", v1alpha1.MigrationSpec{PodName: "redis"})
	n := int32(3)
	m.Status = v1alpha1.MigrationStatus{
		Phase:    v1alpha1.PhaseCompleting,
		Source:   &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1"}, SourceReport: v1alpha1.SourceReport{Round: &n, Dirty: "8Mi"}},
		Target:   &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2"}},
		Downtime: &v1alpha1.DowntimeStatus{},
	}
	f.must(testClient.Status().Update(f.ctx, m), "status")
	lines := strings.Split(strings.TrimSpace(f.kubectl("get", "mig", "-n", f.ns)), "\n")
	if len(lines) != 2 {
		t.Fatalf("kubectl get mig: %q", lines)
	}
	if got, want := strings.Fields(lines[0]), []string{"NAME", "POD", "FROM", "TO", "PHASE", "ROUND", "DIRTY", "DOWNTIME", "AGE"}; !slices.Equal(got, want) {
		t.Errorf("columns = %v, want %v", got, want)
	}
	if got, want := strings.Fields(lines[1])[:8], []string{"move", "redis", "n1", "n2", "Completing", "3", "8Mi", "0s"}; !slices.Equal(got, want) {
		t.Errorf("row = %v, want %v", got, want)
	}
}
