// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestChartPassesItsLinter(t *testing.T) {
	helm := program(t, "HELM")
	track(t, chart)
	if _, err := output(helm, "lint", "--strict", "--kube-version", "1.37", chart); err != nil {
		t.Fatal(err)
	}
}

func TestChartAndKustomizationAgree(t *testing.T) {
	fromChart := render(t, "image.tag=latest")
	_, fromConfig := kustomize(t)
	// Helm makes the namespace itself, or takes one that is there.
	delete(fromConfig, "Namespace/"+namespace)

	for key, want := range fromConfig {
		got, ok := fromChart[key]
		if !ok {
			t.Errorf("the chart has no %s", key)
			continue
		}
		dropHelm(got)
		// Neither way needs labels where nothing selects by them.
		got.SetLabels(nil)
		want.SetLabels(nil)
		if diff := cmp.Diff(want.Object, got.Object); diff != "" {
			t.Errorf("%s differs (- config, + chart):\n%s", key, diff)
		}
	}
	for key := range fromChart {
		if _, ok := fromConfig[key]; !ok {
			t.Errorf("config has no %s", key)
		}
	}
}

// dropHelm removes what only Helm understands.
func dropHelm(u *unstructured.Unstructured) {
	annotations := u.GetAnnotations()
	delete(annotations, "helm.sh/resource-policy")
	if len(annotations) == 0 {
		annotations = nil
	}
	u.SetAnnotations(annotations)
}

func TestManagerIsUnprivileged(t *testing.T) {
	d := render(t)["Deployment/godwit-manager"]
	pod := []any{"spec", "template", "spec"}
	if at(t, d, append(pod, "securityContext", "runAsNonRoot")...) != true {
		t.Error("the manager may run as root")
	}
	c := at(t, d, append(pod, "containers", 0, "securityContext")...)
	want := map[string]any{
		"allowPrivilegeEscalation": false,
		"readOnlyRootFilesystem":   true,
		"capabilities":             map[string]any{"drop": []any{"ALL"}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("security context (- want, + got):\n%s", diff)
	}
}

func TestAgentStaysOnANodeThatIsDrained(t *testing.T) {
	d := render(t)["DaemonSet/godwit-agent"]
	template := []any{"spec", "template"}
	if got := at(t, d, append(template, "metadata", "annotations", "cluster-autoscaler.kubernetes.io/enable-ds-eviction")...); got != "false" {
		t.Errorf("enable-ds-eviction is %v", got)
	}
	if got := at(t, d, append(template, "spec", "priorityClassName")...); got != "system-node-critical" {
		t.Errorf("priority class %v", got)
	}
	tolerations := at(t, d, append(template, "spec", "tolerations")...)
	if diff := cmp.Diff([]any{map[string]any{"operator": "Exists"}}, tolerations); diff != "" {
		t.Errorf("tolerations (- want, + got):\n%s", diff)
	}
}

func TestImagesAreVisibleToTheNode(t *testing.T) {
	d := render(t)["DaemonSet/godwit-agent"]
	mounts, ok := at(t, d, "spec", "template", "spec", "containers", 0, "volumeMounts").([]any)
	if !ok {
		t.Fatal("the agent mounts nothing")
	}
	run := slices.IndexFunc(mounts, func(m any) bool { return m.(map[string]any)["name"] == "run" })
	if run < 0 || mounts[run].(map[string]any)["mountPropagation"] != "Bidirectional" {
		t.Errorf("mounts: %v", mounts)
	}
}

func TestSettings(t *testing.T) {
	const (
		manager = "Deployment/godwit-manager"
		agent   = "DaemonSet/godwit-agent"
		claim   = "PersistentVolumeClaim/godwit-images"
	)
	digest := "sha256:" + strings.Repeat("ab", 32)
	container := func(more ...any) []any {
		return append([]any{"spec", "template", "spec", "containers", 0}, more...)
	}
	for name, test := range map[string]struct {
		set   []string
		check func(*testing.T, objects)
	}{
		"an existing claim": {
			set: []string{"images.existingClaim=mine"},
			check: func(t *testing.T, o objects) {
				if o[claim] != nil {
					t.Error("the chart makes a claim of its own")
				}
				if got := at(t, o[agent], "spec", "template", "spec", "volumes", 0, "persistentVolumeClaim", "claimName"); got != "mine" {
					t.Errorf("the agent uses the claim %v", got)
				}
			},
		},
		"a volume without a class": {
			set: []string{"images.storageClassName=-", "images.volumeName=nfs", "images.size=1Gi"},
			check: func(t *testing.T, o objects) {
				if got := at(t, o[claim], "spec", "storageClassName"); got != "" {
					t.Errorf("class %q", got)
				}
				if got := at(t, o[claim], "spec", "volumeName"); got != "nfs" {
					t.Errorf("volume %v", got)
				}
			},
		},
		"a pinned image": {
			set: []string{"image.repository=r/godwit", "image.digest=" + digest},
			check: func(t *testing.T, o objects) {
				for _, key := range []string{manager, agent} {
					if got := at(t, o[key], container("image")...); got != "r/godwit@"+digest {
						t.Errorf("%s runs %v", key, got)
					}
				}
				args, _ := at(t, o[manager], container("args")...).([]any)
				if !slices.Contains(args, any("--gate-image=r/godwit@"+digest)) {
					t.Errorf("the gate is another image: %v", args)
				}
			},
		},
		"definitions by other means": {
			set: []string{"crds.install=false"},
			check: func(t *testing.T, o objects) {
				if o["CustomResourceDefinition/migrations.godwit.dev"] != nil {
					t.Error("the chart installs its definitions all the same")
				}
			},
		},
		"rights by other means": {
			set: []string{"rbac.create=false", "serviceAccounts.create=false", "serviceAccounts.agent=theirs"},
			check: func(t *testing.T, o objects) {
				for key := range o {
					if strings.Contains(key, "Role") || strings.HasPrefix(key, "ServiceAccount/") {
						t.Errorf("the chart makes %s", key)
					}
				}
				if got := at(t, o[agent], "spec", "template", "spec", "serviceAccountName"); got != "theirs" {
					t.Errorf("the agent's account is %v", got)
				}
			},
		},
		"policies by other means": {
			set: []string{"admissionPolicies.agents=false", "admissionPolicies.pods=false", "admissionPolicies.criuConfig=off"},
			check: func(t *testing.T, o objects) {
				for key := range o {
					if strings.HasPrefix(key, "ValidatingAdmissionPolicy") {
						t.Errorf("the chart makes %s", key)
					}
				}
			},
		},
		"CRIU's configuration refused under the wrapper only": {
			set: []string{"admissionPolicies.criuConfig=godwit"},
			check: func(t *testing.T, o objects) {
				got := at(t, o["ValidatingAdmissionPolicy/godwit-criu-config"], "spec", "matchConditions", 0, "expression")
				if got != "object.spec.?runtimeClassName.orValue('') == 'godwit'" {
					t.Errorf("it matches where %v", got)
				}
			},
		},
		"policies name the release's accounts": {
			set: []string{"fullnameOverride=other", "serviceAccounts.agent=theirs"},
			check: func(t *testing.T, o objects) {
				for policy, account := range map[string]string{"other-agent-nodes": "theirs", "other-agent-migrations": "theirs", "other-pods": "other-manager"} {
					got, _ := at(t, o["ValidatingAdmissionPolicy/"+policy], "spec", "matchConditions", 0, "expression").(string)
					if !strings.HasSuffix(got, "'system:serviceaccount:"+namespace+":"+account+"'") {
						t.Errorf("%s matches where %s", policy, got)
					}
					if got := at(t, o["ValidatingAdmissionPolicyBinding/"+policy], "spec", "policyName"); got != policy {
						t.Errorf("the binding %s is of %v", policy, got)
					}
				}
			},
		},
		"evictions refused when nobody answers": {
			set: []string{"webhooks.evictions.failurePolicy=Fail", "webhooks.evictions.timeoutSeconds=3"},
			check: func(t *testing.T, o objects) {
				hooks := o["ValidatingWebhookConfiguration/godwit-webhooks"]
				for i, want := range []struct{ policy, operator string }{{"Fail", "NotIn"}, {"Ignore", "In"}} {
					if got := at(t, hooks, "webhooks", i, "failurePolicy"); got != want.policy {
						t.Errorf("webhook %d: failurePolicy %v", i, got)
					}
					label := at(t, hooks, "webhooks", i, "namespaceSelector", "matchExpressions", 1).(map[string]any)
					if diff := cmp.Diff(map[string]any{"key": "godwit.dev/evictions-without-manager", "operator": want.operator, "values": []any{"Ignore"}}, label); diff != "" {
						t.Errorf("webhook %d (- want, + got):\n%s", i, diff)
					}
					if got := at(t, hooks, "webhooks", i, "timeoutSeconds"); fmt.Sprint(got) != "3" {
						t.Errorf("webhook %d: timeout %v", i, got)
					}
				}
			},
		},
		"certificates of cert-manager": {
			set: []string{"webhooks.certManager.use=true"},
			check: func(t *testing.T, o objects) {
				if o["Secret/godwit-webhooks"] != nil {
					t.Error("the chart makes the Secret that cert-manager is to make")
				}
				if got := at(t, o["Certificate/godwit-webhooks"], "spec", "secretName"); got != "godwit-webhooks" {
					t.Errorf("the certificate goes into %v", got)
				}
				if got := at(t, o["ValidatingWebhookConfiguration/godwit-webhooks"], "metadata", "annotations", "cert-manager.io/inject-ca-from"); got != namespace+"/godwit-webhooks" {
					t.Errorf("the authority comes from %v", got)
				}
				args, _ := at(t, o[manager], container("args")...).([]any)
				if !slices.Contains(args, any("--webhook-rotate-certificates=false")) {
					t.Errorf("the manager rotates too: %v", args)
				}
			},
		},
		"webhooks under another name": {
			set: []string{"fullnameOverride=other"},
			check: func(t *testing.T, o objects) {
				if got := at(t, o["ValidatingWebhookConfiguration/other-webhooks"], "webhooks", 0, "clientConfig", "service", "name"); got != "other-webhooks" {
					t.Errorf("the API server calls %v", got)
				}
				for _, role := range []string{"Role/other-manager", "ClusterRole/other-manager"} {
					named := 0
					for _, r := range at(t, o[role], "rules").([]any) {
						for _, n := range asList(r.(map[string]any)["resourceNames"]) {
							named++
							if n != "other-webhooks" {
								t.Errorf("%s is about %v", role, n)
							}
						}
					}
					if named == 0 {
						t.Errorf("%s names nothing", role)
					}
				}
			},
		},
		"monitoring": {
			set: []string{"metrics.serviceMonitor.create=true", "metrics.serviceMonitor.labels.release=x"},
			check: func(t *testing.T, o objects) {
				for _, key := range []string{"ServiceMonitor/godwit-manager", "ServiceMonitor/godwit-agent"} {
					if got := at(t, o[key], "metadata", "labels", "release"); got != "x" {
						t.Errorf("%s has the label release=%v", key, got)
					}
				}
			},
		},
		"flags": {
			set: []string{"logLevel=debug", "agent.installRuntime=false", "agent.extraArgs={--one=1,--two=2}"},
			check: func(t *testing.T, o objects) {
				args, _ := at(t, o[agent], container("args")...).([]any)
				for _, want := range []any{"--log-level=debug", "--install-runtime=false", "--one=1", "--two=2"} {
					if !slices.Contains(args, want) {
						t.Errorf("the agent has no %v: %v", want, args)
					}
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) { test.check(t, render(t, test.set...)) })
	}
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func TestSchemaRefusesMistakes(t *testing.T) {
	for _, setting := range []string{
		"logLevel=loud", "admissionPolicies.criuConfig=maybe", "manger.replicas=2", "manager.replicas=-1", "image.digest=abc",
		"images.size=big", "agent.extraArgs={plain}", "webhooks.evictions.failurePolicy=Maybe", "webhooks.evictions.timeoutSeconds=60", "metrics.serviceMonitor.interval=often",
	} {
		if _, err := template(t, setting); err == nil {
			t.Errorf("--set %s was accepted", setting)
		}
	}
}
