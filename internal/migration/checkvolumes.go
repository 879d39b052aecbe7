// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// checkVolumeTypes refuses volumes that are not the same on every node. Those
// that no container mounts do not matter. Claims need more than the pod to be
// judged: see CheckVolumes.
func checkVolumeTypes(r *refusals, pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !mounted(pod, v.Name) {
			continue
		}
		s := &v.VolumeSource
		switch {
		case s.ConfigMap != nil, s.Secret != nil, s.Projected != nil, s.DownwardAPI != nil:
			// kubelet makes them anew on the target.
		case s.NFS != nil:
			// The same directory on every node.
		case s.PersistentVolumeClaim != nil:
			// CheckVolumes.
		case s.EmptyDir != nil:
			r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q is an emptyDir, whose content does not travel yet; use a ReadWriteMany claim or the container's own file system", v.Name)
		case s.HostPath != nil:
			r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q is a directory of the node (hostPath); use a ReadWriteMany claim", v.Name)
		case s.Ephemeral != nil:
			r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q is an ephemeral claim that lives and dies with the pod; use a ReadWriteMany claim", v.Name)
		default:
			r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q is of a type that cannot be moved; use a ReadWriteMany claim", v.Name)
		}
	}
}

// mounted says whether a container that will run on the target uses the volume.
// Ordinary init containers do not: their work is done.
func mounted(pod *corev1.Pod, volume string) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume }) ||
			slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == volume })
	})
}

// ClaimNames returns the names of the PersistentVolumeClaims that the pod's
// containers mount: what CheckVolumes wants to see.
func ClaimNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if c := v.PersistentVolumeClaim; c != nil && mounted(pod, v.Name) && !slices.Contains(names, c.ClaimName) {
			names = append(names, c.ClaimName)
		}
	}
	return names
}

// CheckVolumes returns a refusal for each claim of the pod that cannot be
// mounted on two nodes at the same time: for a while both pods exist. claims
// holds the pod's PersistentVolumeClaims by name.
func CheckVolumes(pod *corev1.Pod, claims map[string]*corev1.PersistentVolumeClaim) []v1alpha1.Failure {
	var r refusals
	for _, name := range ClaimNames(pod) {
		claim := claims[name]
		if claim == nil {
			r.add(v1alpha1.ReasonVolumeNotPortable, "claim %q of the pod does not exist", name)
			continue
		}
		modes := claim.Status.AccessModes
		if len(modes) == 0 {
			modes = claim.Spec.AccessModes
		}
		if !slices.Contains(modes, corev1.ReadWriteMany) && !slices.Contains(modes, corev1.ReadOnlyMany) {
			r.add(v1alpha1.ReasonVolumeNotPortable, "claim %q can only be mounted on one node (%s); use a ReadWriteMany or ReadOnlyMany claim", name, joinModes(modes))
		}
	}
	return r
}

func joinModes(modes []corev1.PersistentVolumeAccessMode) string {
	if len(modes) == 0 {
		return "no access mode"
	}
	s := string(modes[0])
	for _, m := range modes[1:] {
		s += ", " + string(m)
	}
	return s
}
