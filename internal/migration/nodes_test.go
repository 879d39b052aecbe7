// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func able(name string, changes ...func(*NodeInfo)) NodeInfo {
	n := NodeInfo{Name: name, Schedulable: true, Labels: map[string]string{v1alpha1.LabelNodeReady: "true", corev1.LabelHostname: name},
		Facts: v1alpha1.NodeFacts{CRIU: "4.1.1", Kernel: "6.12.48+deb13-cloud-amd64", Architecture: "amd64", CPUFeatures: []string{"avx", "avx2"}, XSaveSize: 832}}
	for _, c := range changes {
		c(&n)
	}
	return n
}

func TestEligibleNodes(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*NodeInfo)
		// why is part of the reason; "" means eligible.
		why string
	}{
		"the same":                {func(*NodeInfo) {}, ""},
		"cordoned":                {func(n *NodeInfo) { n.Schedulable = false }, "cordoned"},
		"no label":                {func(n *NodeInfo) { n.Labels = nil }, "lacks the label"},
		"labelled not ready":      {func(n *NodeInfo) { n.Labels[v1alpha1.LabelNodeReady] = "false" }, "lacks the label"},
		"not ready":               {func(n *NodeInfo) { n.Facts.NotReady = "no criu" }, "no criu"},
		"other architecture":      {func(n *NodeInfo) { n.Facts.Architecture = "arm64" }, "architecture is arm64"},
		"architecture by label":   {func(n *NodeInfo) { n.Facts.Architecture, n.Labels[corev1.LabelArchStable] = "", "amd64" }, ""},
		"other CRIU":              {func(n *NodeInfo) { n.Facts.CRIU = "4.1" }, "CRIU is 4.1"},
		"newer CRIU":              {func(n *NodeInfo) { n.Facts.CRIU = "4.1.10" }, "CRIU is 4.1.10"},
		"no CRIU":                 {func(n *NodeInfo) { n.Facts.CRIU = "" }, "CRIU is unknown"},
		"older kernel":            {func(n *NodeInfo) { n.Facts.Kernel = "6.12.9-cloud-amd64" }, "older"},
		"much older kernel":       {func(n *NodeInfo) { n.Facts.Kernel = "5.100.100" }, "older"},
		"newer kernel":            {func(n *NodeInfo) { n.Facts.Kernel = "6.12.100" }, ""},
		"newer series":            {func(n *NodeInfo) { n.Facts.Kernel = "7.0" }, ""},
		"unreadable kernel":       {func(n *NodeInfo) { n.Facts.Kernel = "linux" }, "cannot be compared"},
		"no kernel":               {func(n *NodeInfo) { n.Facts.Kernel = "" }, "cannot be compared"},
		"more CPU features":       {func(n *NodeInfo) { n.Facts.CPUFeatures = []string{"avx", "avx2", "avx512"} }, ""},
		"features in any order":   {func(n *NodeInfo) { n.Facts.CPUFeatures = []string{"avx2", "avx"} }, ""},
		"fewer CPU features":      {func(n *NodeInfo) { n.Facts.CPUFeatures = []string{"avx"} }, "lacks avx2"},
		"bigger xsave area":       {func(n *NodeInfo) { n.Facts.XSaveSize = 2696 }, "2696 bytes"},
		"smaller xsave area":      {func(n *NodeInfo) { n.Facts.XSaveSize = 576 }, "576 bytes"},
		"no dirty tracking there": {func(n *NodeInfo) { n.Facts.DirtyTracking = false }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			names, why := EligibleNodes(able("n1"), []NodeInfo{able("n3"), able("n1"), able("n2", tc.change)})
			if !strings.Contains(why["n1"], "runs there") {
				t.Errorf("the source is not excluded: %v", why)
			}
			want := []string{"n2", "n3"}
			if tc.why != "" {
				want = []string{"n3"}
			}
			if !slices.Equal(names, want) || !strings.Contains(why["n2"], tc.why) {
				t.Errorf("EligibleNodes = %v, %v; want %v", names, why, want)
			}
		})
	}
}

func TestCheckNodes(t *testing.T) {
	to := func(node string) *v1alpha1.Migration {
		return &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{TargetNode: node}}
	}
	cordoned := able("n3", func(n *NodeInfo) { n.Schedulable = false })
	nodes := []NodeInfo{able("n1"), able("n2"), cordoned, able("n4")}
	for name, tc := range map[string]struct {
		m      *v1alpha1.Migration
		source NodeInfo
		nodes  []NodeInfo
		names  []string
		reason string
		says   string
	}{
		"any":                {to(""), able("n1"), nodes, []string{"n2", "n4"}, "", ""},
		"a chosen one":       {to("n4"), able("n1"), nodes, []string{"n4"}, "", ""},
		"the source":         {to("n1"), able("n1"), nodes, nil, v1alpha1.ReasonTargetNodeNotEligible, "runs there"},
		"a cordoned one":     {to("n3"), able("n1"), nodes, nil, v1alpha1.ReasonTargetNodeNotEligible, "cordoned"},
		"no such node":       {to("n9"), able("n1"), nodes, nil, v1alpha1.ReasonTargetNodeNotEligible, "no such node"},
		"none":               {to(""), able("n1"), []NodeInfo{able("n1"), cordoned}, nil, v1alpha1.ReasonNoEligibleNode, "n3: it is cordoned"},
		"no nodes at all":    {to(""), able("n1"), nil, nil, v1alpha1.ReasonNoEligibleNode, "no other node"},
		"source is not able": {to(""), able("n1", func(n *NodeInfo) { n.Facts.NotReady = "no criu" }), nodes, nil, v1alpha1.ReasonSourceNodeNotReady, "no criu"},
		"a cordoned source":  {to(""), able("n1", func(n *NodeInfo) { n.Schedulable = false }), nodes, []string{"n2", "n4"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, failure := CheckNodes(tc.m, tc.source, tc.nodes)
			var names []string
			for _, n := range found {
				names = append(names, n.Name)
			}
			if !slices.Equal(names, tc.names) {
				t.Errorf("CheckNodes = %v", names)
			}
			switch {
			case tc.reason == "" && failure != nil:
				t.Errorf("failure = %+v", failure)
			case tc.reason != "" && (failure == nil || failure.Reason != tc.reason || !strings.Contains(failure.Message, tc.says)):
				t.Errorf("failure = %+v, want %s saying %q", failure, tc.reason, tc.says)
			}
		})
	}
}

func TestManyReasonsAreAbbreviated(t *testing.T) {
	nodes := []NodeInfo{able("n1")}
	for _, c := range "abcdefgh" {
		nodes = append(nodes, able("x"+string(c), func(n *NodeInfo) { n.Facts.CPUFeatures = nil }))
	}
	source := able("n1", func(n *NodeInfo) { n.Facts.CPUFeatures = []string{"a", "b", "c", "d", "e", "f", "g"} })
	_, failure := CheckNodes(&v1alpha1.Migration{}, source, nodes)
	if failure == nil || !strings.Contains(failure.Message, "and 2 more; xb") || !strings.HasSuffix(failure.Message, "and 5 more)") {
		t.Errorf("failure = %+v", failure)
	}
}

func TestNodeInfoOf(t *testing.T) {
	facts, err := json.Marshal(v1alpha1.NodeFacts{CRIU: "4.1.1", DirtyTracking: true})
	if err != nil {
		t.Fatal(err)
	}
	node := func(annotation string, ready corev1.ConditionStatus, cordoned bool) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{v1alpha1.LabelNodeReady: "true"}},
			Spec:   corev1.NodeSpec{Unschedulable: cordoned},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
		if annotation != "" {
			n.Annotations = map[string]string{v1alpha1.AnnotationNodeFacts: annotation}
		}
		return n
	}
	for name, tc := range map[string]struct {
		node        *corev1.Node
		schedulable bool
		notReady    string
	}{
		"ready":          {node(string(facts), corev1.ConditionTrue, false), true, ""},
		"cordoned":       {node(string(facts), corev1.ConditionTrue, true), false, ""},
		"kubelet away":   {node(string(facts), corev1.ConditionUnknown, false), false, ""},
		"no agent":       {node("", corev1.ConditionTrue, false), true, "no agent"},
		"broken report":  {node(`{"criu":`, corev1.ConditionTrue, false), true, "cannot be read"},
		"wrong types":    {node(`{"criu":"4.1.1","xsaveSize":"big"}`, corev1.ConditionTrue, false), true, "cannot be read"},
		"agent gave up":  {node(`{"notReady":"no criu"}`, corev1.ConditionTrue, false), true, "no criu"},
		"future reports": {node(`{"criu":"4.1.1","flavour":"new"}`, corev1.ConditionTrue, false), true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			info := NodeInfoOf(tc.node)
			if info.Name != "n1" || info.Schedulable != tc.schedulable {
				t.Errorf("NodeInfoOf = %+v", info)
			}
			if got := info.NotReady(); (tc.notReady == "") != (got == "") || !strings.Contains(got, tc.notReady) {
				t.Errorf("NotReady = %q, want %q", got, tc.notReady)
			}
			// Nothing of a report that cannot be read may be believed.
			if strings.Contains(tc.notReady, "cannot be read") && info.Facts.CRIU != "" {
				t.Errorf("facts = %+v", info.Facts)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	if got := able("n1").Hostname(); got != "n1" {
		t.Error(got)
	}
	if got := (NodeInfo{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "ip-10-0-0-1"}}).Hostname(); got != "ip-10-0-0-1" {
		t.Error(got)
	}
	if got := (NodeInfo{Name: "n1"}).Hostname(); got != "n1" {
		t.Error(got)
	}
}
