// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// gateCommand is the wrapper binary's waiting mode; the target agent ends it.
var gateCommand = []string{"/usr/local/bin/godwit-runc", "gate"}

// gateUser is an unprivileged user; the gate needs no file and no right.
const gateUser = 65532

// maxHostname is what the kernel takes, less one; kubelet cuts there too.
const maxHostname = 63

// notCopied are annotations that are about one pod object, or that a network
// plugin has written about one sandbox: copied, they would be lies.
var notCopied = []string{
	corev1.LastAppliedConfigAnnotation,
	v1alpha1.AnnotationRelease,
	v1alpha1.AnnotationPlaceholder,
	"cni.projectcalico.org/containerID",
	"cni.projectcalico.org/podIP",
	"cni.projectcalico.org/podIPs",
	"k8s.ovn.org/pod-networks",
	"ovn.kubernetes.io/allocated",
	"ovn.kubernetes.io/routed",
	"k8s.v1.cni.cncf.io/network-status",
}

// BuildTargetPod makes the target pod of a migration: the source pod, elsewhere,
// under the godwit runtime and behind a gate. Placement stays the scheduler's
// work, restricted to the nodes whose hostname labels are given. A source that
// is itself the target of an earlier migration gives the same shape again.
func BuildTargetPod(source *corev1.Pod, m *v1alpha1.Migration, gateImage string, pullPolicy corev1.PullPolicy, hostnames []string) *corev1.Pod {
	// No owner: a Migration as a pod's controller would break the accounting of
	// PodDisruptionBudgets, and deleting it would take the pod along.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        TargetPodName(m),
			Namespace:   source.Namespace,
			Labels:      maps.Clone(source.Labels),
			Annotations: maps.Clone(source.Annotations),
		},
		Spec: *source.Spec.DeepCopy(),
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[v1alpha1.LabelMigration] = string(m.UID)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	for _, a := range notCopied {
		delete(pod.Annotations, a)
	}
	withoutAddresses(pod, m)
	pod.Annotations[v1alpha1.AnnotationMigration] = m.Namespace + "/" + m.Name

	s := &pod.Spec
	s.NodeName = ""
	s.SchedulingGates = nil
	s.EphemeralContainers = nil
	// Admission computes these from the class names and refuses values that
	// have changed since the source was admitted.
	s.Priority, s.PreemptionPolicy, s.Overhead = nil, nil, nil
	runtimeClass := v1alpha1.RuntimeClassName
	s.RuntimeClassName = &runtimeClass
	s.Hostname = hostname(source)
	// The effects of the other init containers are in the images.
	sidecars := Sidecars(pod)
	pinImages(source, s.Containers)
	pinImages(source, sidecars)
	s.InitContainers = append([]corev1.Container{gate(s.Containers, gateImage, pullPolicy)}, sidecars...)
	earlier := source.Annotations[v1alpha1.AnnotationMigration] != ""
	s.Affinity = onNodes(s.Affinity, hostnames, earlier)
	return pod
}

// hostname is the source's, since the restored processes know it and CRIU puts
// it back. A pod name with dots is no valid spec.hostname; then only the
// sandbox's /etc/hosts differs.
func hostname(source *corev1.Pod) string {
	h := source.Spec.Hostname
	if h == "" {
		h = source.Name
	}
	if len(h) > maxHostname {
		h = strings.TrimRight(h[:maxHostname], "-.")
	}
	if strings.Contains(h, ".") {
		return ""
	}
	return h
}

// pinImages replaces tags by the digests that the source runs. An image that
// was never pulled (loaded into the node) has none and stays as it is.
func pinImages(source *corev1.Pod, containers []corev1.Container) {
	for i := range containers {
		c := &containers[i]
		s := ContainerStatus(source, c.Name)
		if s == nil {
			continue
		}
		id := strings.TrimPrefix(s.ImageID, "docker-pullable://")
		if repo, _, ok := strings.Cut(id, "@sha256:"); ok && repo != "" {
			c.Image = id
		}
	}
}

// gate is the init container that holds the pod back. It passes the restricted
// Pod Security Standard, and has the application's own CPU and memory requests
// and limits: that changes neither the pod's QoS class nor what it asks of a
// node, since init containers run before the others.
func gate(containers []corev1.Container, image string, pullPolicy corev1.PullPolicy) corev1.Container {
	yes, no, user := true, false, int64(gateUser)
	g := corev1.Container{
		Name:                     v1alpha1.GateContainerName,
		Image:                    image,
		ImagePullPolicy:          pullPolicy,
		Command:                  slices.Clone(gateCommand),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   &yes,
			RunAsNonRoot:             &yes,
			RunAsUser:                &user,
			RunAsGroup:               &user,
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if len(containers) > 0 {
		g.Resources.Requests = computeOnly(containers[0].Resources.Requests)
		g.Resources.Limits = computeOnly(containers[0].Resources.Limits)
	}
	return g
}

func computeOnly(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := list[name]; ok {
			out[name] = q.DeepCopy()
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// onNodes restricts required node affinity to hostnames. The terms of a
// selector are alternatives, so the restriction goes into each of them, as its
// last requirement; earlier says that an earlier migration did the same, and
// that its restriction has to go.
func onNodes(affinity *corev1.Affinity, hostnames []string, earlier bool) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		required = &corev1.NodeSelector{}
		affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	}
	restriction := corev1.NodeSelectorRequirement{
		Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: slices.Sorted(slices.Values(hostnames)),
	}
	var terms []corev1.NodeSelectorTerm
	for _, t := range required.NodeSelectorTerms {
		if earlier {
			t = withoutRestriction(t)
		}
		// A term without requirements matches no node: with ours in it, it
		// would match some.
		if len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0 {
			continue
		}
		t.MatchExpressions = append(t.MatchExpressions, restriction)
		terms = append(terms, t)
	}
	if len(terms) == 0 {
		terms = []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{restriction}}}
	}
	required.NodeSelectorTerms = terms
	return affinity
}

func withoutRestriction(t corev1.NodeSelectorTerm) corev1.NodeSelectorTerm {
	if n := len(t.MatchExpressions); n > 0 {
		if last := t.MatchExpressions[n-1]; last.Key == corev1.LabelHostname && last.Operator == corev1.NodeSelectorOpIn {
			t.MatchExpressions = slices.Clone(t.MatchExpressions[:n-1])
		}
	}
	return t
}
