// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// annotationCRIUConfig lets runc hand CRIU a configuration, and so scripts that
// run as root on the node, for any checkpoint or restore of the pod. CRI-O also
// knows it with "/" and a container's name behind it.
const annotationCRIUConfig = "org.criu.config"

// annotationConfigSource is set by kubelet on pods it did not get from the API
// server.
const annotationConfigSource = "kubernetes.io/config.source"

// refusals collects failures.
type refusals []v1alpha1.Failure

func (r *refusals) add(reason, format string, args ...any) {
	*r = append(*r, v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (r *refusals) addFor(container, reason, format string, args ...any) {
	*r = append(*r, v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...), Container: container})
}

// CheckPod returns everything visible in the pod object that forbids the move,
// each with a typed reason and a sentence that says what to do. What can only
// be seen on the node (sockets, sessions, io_uring, free space) is the source
// agent's to check, and the pod's claims are CheckVolumes'.
func CheckPod(pod *corev1.Pod) []v1alpha1.Failure {
	var r refusals
	checkRunning(&r, pod)
	checkOwner(&r, pod)
	checkShape(&r, pod)
	checkNamespaces(&r, pod)
	checkRuntime(&r, pod)
	checkAnnotations(&r, pod)
	for _, c := range Containers(pod) {
		checkContainer(&r, &c)
	}
	checkStarted(&r, pod)
	if len(pod.Spec.ResourceClaims) > 0 {
		r.add(v1alpha1.ReasonDevices, "the pod uses resource claims; the state of a device cannot be moved, so move a pod without them")
	}
	checkVolumeTypes(&r, pod)
	return r
}

func checkRunning(r *refusals, pod *corev1.Pod) {
	switch {
	case pod.DeletionTimestamp != nil:
		r.add(v1alpha1.ReasonSourcePodNotRunning, "the pod is being deleted; only a running pod can be moved")
		return
	case pod.Status.Phase != corev1.PodRunning:
		r.add(v1alpha1.ReasonSourcePodNotRunning, "the pod is %s; wait until it is Running", phaseOr(pod.Status.Phase, "not started"))
		return
	}
	for _, c := range Containers(pod) {
		switch s := ContainerStatus(pod, c.Name); {
		case s != nil && s.State.Terminated != nil:
			r.addFor(c.Name, v1alpha1.ReasonSourcePodNotRunning, "container %q has ended; a pod can be moved while all of its containers run", c.Name)
		case s == nil || s.State.Running == nil:
			r.addFor(c.Name, v1alpha1.ReasonSourcePodNotRunning, "container %q does not run; wait until it does", c.Name)
		}
	}
}

func phaseOr(p corev1.PodPhase, otherwise string) string {
	if p == "" {
		return otherwise
	}
	return string(p)
}

func checkOwner(r *refusals, pod *corev1.Pod) {
	// A mirror pod is "owned" by its Node too; its own reason says more.
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	if src, ok := pod.Annotations[annotationConfigSource]; mirror || ok && src != "api" {
		r.add(v1alpha1.ReasonStaticPod, "the pod is a static pod, bound to its node by a file there; it cannot be moved")
		return
	}
	owner := metav1.GetControllerOf(pod)
	switch {
	case owner == nil || Movable(owner):
	case owner.Kind == "DaemonSet":
		r.add(v1alpha1.ReasonOwnedPod, "the pod is controlled by DaemonSet %q, which runs one on every node; it cannot be moved", owner.Name)
	default:
		r.add(v1alpha1.ReasonOwnedPod, "the pod is controlled by %s %q (%s), of which it is not known how it replaces a pod; only pods of ReplicaSets (also those of Deployments), of StatefulSets, of Jobs, and without a controller can be moved", owner.Kind, owner.Name, owner.APIVersion)
	}
}

func checkShape(r *refusals, pod *corev1.Pod) {
	for _, c := range Sidecars(pod) {
		if c.StartupProbe != nil {
			r.addFor(c.Name, v1alpha1.ReasonSidecarStartupProbe, "sidecar %q has a startup probe: on the target kubelet would wait for it before it creates the other containers, and no container runs before all are restored; use a readiness probe instead", c.Name)
		}
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		r.add(v1alpha1.ReasonEphemeralContainers, "the pod has ephemeral containers (kubectl debug); they cannot be removed from a pod, so it can only be moved after it was created anew")
	}
}

func checkNamespaces(r *refusals, pod *corev1.Pod) {
	s := &pod.Spec
	if s.HostNetwork {
		r.add(v1alpha1.ReasonHostNetwork, "the pod uses its node's network (hostNetwork), which stays behind; move a pod with a network of its own")
	}
	if s.HostPID {
		r.add(v1alpha1.ReasonHostNamespaces, "the pod shares its node's processes (hostPID); move a pod without it")
	}
	if s.HostIPC {
		r.add(v1alpha1.ReasonHostNamespaces, "the pod shares its node's IPC (hostIPC); move a pod without it")
	}
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		r.add(v1alpha1.ReasonShareProcessNamespace, "the pod's containers share a process namespace (shareProcessNamespace), whose first process is the sandbox's; move a pod without it")
	}
	if s.HostUsers != nil && !*s.HostUsers {
		r.add(v1alpha1.ReasonUserNamespace, "the pod has a user namespace (hostUsers: false), whose id ranges differ on every node; move a pod without it")
	}
}

func checkRuntime(r *refusals, pod *corev1.Pod) {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux {
		r.add(v1alpha1.ReasonRuntimeNotSupported, "the pod's operating system is %s; only Linux pods can be moved", pod.Spec.OS.Name)
	}
	if rc := pod.Spec.RuntimeClassName; rc != nil && *rc != "" && *rc != v1alpha1.RuntimeClassName {
		r.add(v1alpha1.ReasonRuntimeNotSupported, "the pod runs under RuntimeClass %q; only pods under the default runtime can be moved", *rc)
	}
}

func checkAnnotations(r *refusals, pod *corev1.Pod) {
	for name := range pod.Annotations {
		if name == annotationCRIUConfig || strings.HasPrefix(name, annotationCRIUConfig+"/") {
			r.add(v1alpha1.ReasonCRIUConfig, "the pod has the annotation %s, by which it could run programs as root on the node that restores it; remove the annotation", name)
		}
	}
}

func checkContainer(r *refusals, c *corev1.Container) {
	if sc := c.SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
		r.addFor(c.Name, v1alpha1.ReasonPrivileged, "container %q is privileged and may hold anything of its node; move a pod that is not", c.Name)
	}
	if c.TTY || c.Stdin {
		r.addFor(c.Name, v1alpha1.ReasonTerminal, "container %q has a terminal or an open stdin (tty, stdin), which stay behind; move a pod without them", c.Name)
	}
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		r.addFor(c.Name, v1alpha1.ReasonPostStartHook, "container %q has a postStart hook, which kubelet would run a second time on the target; do its work in the container's own program or in an init container", c.Name)
	}
	if len(c.VolumeDevices) > 0 {
		r.addFor(c.Name, v1alpha1.ReasonDevices, "container %q uses block devices (volumeDevices); move a pod without them", c.Name)
	}
	seen := map[corev1.ResourceName]bool{}
	for _, list := range []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
		for name, q := range list {
			if q.IsZero() || seen[name] {
				continue
			}
			seen[name] = true
			switch {
			case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
				r.addFor(c.Name, v1alpha1.ReasonHugePages, "container %q asks for %s; huge pages cannot be copied while it runs, so move a pod without them", c.Name, name)
			case strings.Contains(string(name), "/"):
				r.addFor(c.Name, v1alpha1.ReasonDevices, "container %q asks for the device %s, whose state cannot be moved; move a pod without it", c.Name, name)
			}
		}
	}
}
