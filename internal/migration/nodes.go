// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// NodeInfo is what is known of a node.
type NodeInfo struct {
	// Name of the Node object.
	Name string
	// Labels of the Node object.
	Labels map[string]string
	// Facts its agent reports.
	Facts v1alpha1.NodeFacts
	// Schedulable: not cordoned, and kubelet reports it Ready.
	Schedulable bool
	// Drain says that it is being emptied; nil when it is not.
	Drain *Drain
}

// NodeInfoOf reads a Node. Facts that cannot be read make the node not ready.
func NodeInfoOf(node *corev1.Node) NodeInfo {
	info := NodeInfo{Name: node.Name, Labels: node.Labels, Schedulable: !node.Spec.Unschedulable && kubeletReady(node), Drain: DrainOf(node)}
	facts, ok := node.Annotations[v1alpha1.AnnotationNodeFacts]
	if !ok {
		info.Facts.NotReady = "no agent has reported from it"
		return info
	}
	if err := json.Unmarshal([]byte(facts), &info.Facts); err != nil {
		info.Facts = v1alpha1.NodeFacts{NotReady: "its agent's report cannot be read: " + err.Error()}
	}
	return info
}

func kubeletReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Hostname is the value of the node's hostname label, which node affinity
// works with. It is the node's name except on clouds that tell them apart.
func (n NodeInfo) Hostname() string {
	if h := n.Labels[corev1.LabelHostname]; h != "" {
		return h
	}
	return n.Name
}

// NotReady says why the node's agent can take no part in a migration, on
// either side; "" when it can.
func (n NodeInfo) NotReady() string {
	switch {
	case n.Facts.NotReady != "":
		return n.Facts.NotReady
	case n.Labels[v1alpha1.LabelNodeReady] != "true":
		return "it lacks the label " + v1alpha1.LabelNodeReady + "=true"
	}
	return ""
}

func (n NodeInfo) architecture() string {
	if n.Facts.Architecture != "" {
		return n.Facts.Architecture
	}
	return n.Labels[corev1.LabelArchStable]
}

// EligibleNodes returns the names of the nodes that can restore what source
// dumps, sorted, and for each of the others why it cannot.
func EligibleNodes(source NodeInfo, nodes []NodeInfo) (names []string, why map[string]string) {
	why = map[string]string{}
	for _, n := range nodes {
		if reason := notEligible(source, n); reason != "" {
			why[n.Name] = reason
			continue
		}
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names, why
}

// notEligible says why target cannot restore what source dumps.
func notEligible(source, target NodeInfo) string {
	s, t := &source.Facts, &target.Facts
	if target.Name == source.Name {
		return "the pod runs there"
	}
	if !target.Schedulable {
		return "it is cordoned or not ready"
	}
	if d := target.Drain; d != nil {
		return "it is being drained by " + d.By
	}
	if reason := target.NotReady(); reason != "" {
		return reason
	}
	if a, b := source.architecture(), target.architecture(); a != b {
		return fmt.Sprintf("its architecture is %s, the source's %s", orUnknown(b), orUnknown(a))
	}
	if t.CRIU == "" || !sameVersion(s.CRIU, t.CRIU) {
		return fmt.Sprintf("its CRIU is %s, the source's %s; they must be the same", orUnknown(t.CRIU), orUnknown(s.CRIU))
	}
	if !marksRestores(t.CRIU) {
		return fmt.Sprintf("its CRIU is %s; only from %s on does it say when restored processes are about to run", t.CRIU, oldestCRIU)
	}
	switch older, ok := olderKernel(t.Kernel, s.Kernel); {
	case !ok:
		return fmt.Sprintf("its kernel (%s) cannot be compared with the source's (%s)", orUnknown(t.Kernel), orUnknown(s.Kernel))
	case older:
		return fmt.Sprintf("its kernel %s is older than the source's %s", t.Kernel, s.Kernel)
	}
	if missing := missingFeatures(s.CPUFeatures, t.CPUFeatures); len(missing) > 0 {
		return "its CPU lacks " + abbreviate(missing, 5)
	}
	if s.XSaveSize != t.XSaveSize {
		return fmt.Sprintf("its extended CPU state has %d bytes, the source's %d; they must be the same", t.XSaveSize, s.XSaveSize)
	}
	return ""
}

func missingFeatures(want, have []string) []string {
	set := make(map[string]bool, len(have))
	for _, f := range have {
		set[f] = true
	}
	var missing []string
	for _, f := range want {
		if !set[f] {
			missing = append(missing, f)
		}
	}
	return missing
}

func abbreviate(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:n], ", "), len(list)-n)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// CheckNodes returns the candidates for the migration's target, or why there
// are none: the source's agent is not ready, spec.targetNode cannot take the
// pod, or no node can.
func CheckNodes(m *v1alpha1.Migration, source NodeInfo, nodes []NodeInfo) ([]NodeInfo, *v1alpha1.Failure) {
	if reason := source.NotReady(); reason != "" {
		return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonSourceNodeNotReady,
			Message: fmt.Sprintf("the pod's node %s cannot take part: %s", source.Name, reason)}
	}
	names, why := EligibleNodes(source, nodes)
	if t := m.Spec.TargetNode; t != "" {
		if !slices.Contains(names, t) {
			reason, known := why[t]
			if !known {
				reason = "there is no such node"
			}
			return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetNodeNotEligible,
				Message: fmt.Sprintf("node %s cannot take the pod: %s", t, reason)}
		}
		names = []string{t}
	}
	if len(names) == 0 {
		return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonNoEligibleNode, Message: "no other node can take the pod" + whyNot(why)}
	}
	var candidates []NodeInfo
	for _, n := range nodes {
		if slices.Contains(names, n.Name) {
			candidates = append(candidates, n)
		}
	}
	return candidates, nil
}

// whyNot lists the reasons of a few nodes, in a stable order.
func whyNot(why map[string]string) string {
	var list []string
	for name, reason := range why {
		list = append(list, name+": "+reason)
	}
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	if len(list) > 4 {
		list = append(list[:4], fmt.Sprintf("and %d more", len(list)-4))
	}
	return " (" + strings.Join(list, "; ") + ")"
}
