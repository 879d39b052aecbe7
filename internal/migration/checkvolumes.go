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
		case s.EmptyDir != nil && travels(s.EmptyDir):
			// Its content travels with the pod.
		case s.EmptyDir != nil:
			r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q is an emptyDir of the medium %s; only those on disk and in memory can be moved", v.Name, s.EmptyDir.Medium)
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
	return slices.ContainsFunc(Containers(pod), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume }) ||
			slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == volume })
	})
}

// travels says whether an emptyDir's content can be copied.
func travels(e *corev1.EmptyDirVolumeSource) bool {
	return e.Medium == corev1.StorageMediumDefault || e.Medium == corev1.StorageMediumMemory
}

// EmptyDirs returns the names of the pod's volumes whose content travels with it: those
// emptyDirs that a container mounts.
func EmptyDirs(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir != nil && travels(v.EmptyDir) && mounted(pod, v.Name) {
			names = append(names, v.Name)
		}
	}
	return names
}

// Claim is a PersistentVolumeClaim of a pod and what it is bound to.
type Claim struct {
	Claim *corev1.PersistentVolumeClaim
	// Volume is nil when it is not known.
	Volume *corev1.PersistentVolume
}

// modes that the claim has, else those that it asks for.
func (c Claim) modes() []corev1.PersistentVolumeAccessMode {
	if modes := c.Claim.Status.AccessModes; len(modes) > 0 {
		return modes
	}
	return c.Claim.Spec.AccessModes
}

// exclusive: only one node can have it at a time.
func (c Claim) exclusive() bool {
	return !slices.Contains(c.modes(), corev1.ReadWriteMany) && !slices.Contains(c.modes(), corev1.ReadOnlyMany)
}

// ClaimNames returns the names of the PersistentVolumeClaims that the pod's
// containers mount: what CheckVolumes wants to see.
func ClaimNames(pod *corev1.Pod) []string {
	var names []string
	eachClaim(pod, func(_, claim string) {
		if !slices.Contains(names, claim) {
			names = append(names, claim)
		}
	})
	return names
}

// eachClaim calls f with the volumes that are claims, and that a container mounts.
func eachClaim(pod *corev1.Pod, f func(volume, claim string)) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if c := v.PersistentVolumeClaim; c != nil && mounted(pod, v.Name) {
			f(v.Name, c.ClaimName)
		}
	}
}

// CheckVolumes returns a refusal for each volume of the pod that cannot be on the
// target's node when it is to be there. Without a hand-over that is while the source has
// it. claims are the pod's PersistentVolumeClaims by name.
func CheckVolumes(pod *corev1.Pod, claims map[string]Claim, policy v1alpha1.VolumePolicy) []v1alpha1.Failure {
	var r refusals
	refuse := func(format string, args ...any) { r.add(v1alpha1.ReasonVolumeNotPortable, format, args...) }
	eachClaim(pod, func(volume, name string) {
		c := claims[name]
		switch {
		case c.Claim == nil:
			refuse("volume %q: claim %q does not exist", volume, name)
		case c.Volume != nil && (c.Volume.Spec.HostPath != nil || c.Volume.Spec.Local != nil):
			refuse("volume %q: claim %q is bound to a directory of one node (PersistentVolume %q), which stays there; use a claim of a network volume", volume, name, c.Volume.Name)
		case !c.exclusive():
		case policy != v1alpha1.VolumePolicyHandoff:
			refuse("volume %q: claim %q can only be mounted on one node (%s), and volumePolicy Reject does not take it away from there; set volumePolicy: Handoff, with which it follows the pod for a longer downtime, or use a ReadWriteMany or ReadOnlyMany claim", volume, name, joinModes(c.modes()))
		case c.Volume == nil:
			refuse("volume %q: it is not known to which PersistentVolume claim %q is bound, and so not where it can be attached", volume, name)
		}
	})
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
