// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// bare is a pod that may move, changed.
func bare(changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "redis", Namespace: "ns", UID: "s", Labels: map[string]string{"app": "redis"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app", Image: "redis:7"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
	}
	for _, c := range changes {
		c(pod)
	}
	return pod
}

func ptr[T any](v T) *T { return &v }

// withVolume mounts a volume of that source.
func withVolume(s corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v", VolumeSource: s})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: "/v"})
	}
}

func withRequest(name corev1.ResourceName, quantity string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		list := corev1.ResourceList{name: resource.MustParse(quantity)}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
	}
}

func TestCheckPod(t *testing.T) {
	c0 := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	owner := func(kind string, controller bool) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "x", Controller: &controller}}
		}
	}
	for name, tc := range map[string]struct {
		change  func(*corev1.Pod)
		reasons []string
	}{
		"nothing":               {func(*corev1.Pod) {}, nil},
		"being deleted":         {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"pending":               {func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"never seen by kubelet": {func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"container crashes": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		}, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"static":                 {func(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }, []string{v1alpha1.ReasonStaticPod}},
		"from the API":           {func(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "api"} }, nil},
		"owned":                  {owner("ReplicaSet", true), []string{v1alpha1.ReasonOwnedPod}},
		"owned, not controlled":  {owner("Thing", false), nil},
		"ordinary init":          {func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "init"}} }, nil},
		"host network":           {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, []string{v1alpha1.ReasonHostNetwork}},
		"host processes and IPC": {func(p *corev1.Pod) { p.Spec.HostPID, p.Spec.HostIPC = true, true }, []string{v1alpha1.ReasonHostNamespaces, v1alpha1.ReasonHostNamespaces}},
		"shared processes":       {func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = ptr(true) }, []string{v1alpha1.ReasonShareProcessNamespace}},
		"not shared":             {func(p *corev1.Pod) { p.Spec.ShareProcessNamespace, p.Spec.HostUsers = ptr(false), ptr(true) }, nil},
		"user namespace":         {func(p *corev1.Pod) { p.Spec.HostUsers = ptr(false) }, []string{v1alpha1.ReasonUserNamespace}},
		"configuration for CRIU": {func(p *corev1.Pod) { p.Annotations = map[string]string{"org.criu.config": ""} }, []string{v1alpha1.ReasonCRIUConfig}},
		"of one container":       {func(p *corev1.Pod) { p.Annotations = map[string]string{"org.criu.config/app": "x"} }, []string{v1alpha1.ReasonCRIUConfig}},
		"ephemeral container":    {func(p *corev1.Pod) { p.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, 1) }, []string{v1alpha1.ReasonEphemeralContainers}},
		"windows":                {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, []string{v1alpha1.ReasonRuntimeNotSupported}},
		"linux":                  {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Linux} }, nil},
		"other runtime":          {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("kata") }, []string{v1alpha1.ReasonRuntimeNotSupported}},
		"moved before":           {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("godwit") }, nil},
		"privileged":             {c0(func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)} }), []string{v1alpha1.ReasonPrivileged}},
		"not privileged":         {c0(func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(false)} }), nil},
		"terminal":               {c0(func(c *corev1.Container) { c.TTY = true }), []string{v1alpha1.ReasonTerminal}},
		"stdin":                  {c0(func(c *corev1.Container) { c.Stdin = true }), []string{v1alpha1.ReasonTerminal}},
		"block device":           {c0(func(c *corev1.Container) { c.VolumeDevices = make([]corev1.VolumeDevice, 1) }), []string{v1alpha1.ReasonDevices}},
		"GPU":                    {withRequest("nvidia.com/gpu", "1"), []string{v1alpha1.ReasonDevices}},
		"no GPU":                 {withRequest("nvidia.com/gpu", "0"), nil},
		"huge pages":             {withRequest("hugepages-2Mi", "64Mi"), []string{v1alpha1.ReasonHugePages}},
		"memory":                 {withRequest(corev1.ResourceMemory, "64Mi"), nil},
		"ephemeral storage":      {withRequest(corev1.ResourceEphemeralStorage, "64Mi"), nil},
		"resource claim":         {func(p *corev1.Pod) { p.Spec.ResourceClaims = make([]corev1.PodResourceClaim, 1) }, []string{v1alpha1.ReasonDevices}},
		"two containers": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "b", State: p.Status.ContainerStatuses[0].State})
		}, nil},
		"one of two has ended": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "b", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}})
		}, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"sidecar":               {sidecar(func(*corev1.Container) {}), nil},
		"sidecar does not run":  {func(p *corev1.Pod) { sidecar(func(*corev1.Container) {})(p); p.Status.InitContainerStatuses = nil }, []string{v1alpha1.ReasonSourcePodNotRunning}},
		"privileged sidecar":    {sidecar(func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)} }), []string{v1alpha1.ReasonPrivileged}},
		"sidecar's probe":       {sidecar(func(c *corev1.Container) { c.ReadinessProbe = &corev1.Probe{} }), nil},
		"sidecar's start probe": {sidecar(func(c *corev1.Container) { c.StartupProbe = &corev1.Probe{} }), []string{v1alpha1.ReasonSidecarStartupProbe}},
		"hook after the start": {c0(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
		}), []string{v1alpha1.ReasonPostStartHook}},
		"hook before the end": {c0(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}
		}), nil},
		"mirror": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
			owner("Node", true)(p)
		}, []string{v1alpha1.ReasonStaticPod}},
		"config map":          {withVolume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}), nil},
		"secret":              {withVolume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}), nil},
		"token":               {withVolume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}), nil},
		"downward API":        {withVolume(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}), nil},
		"NFS":                 {withVolume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}), nil},
		"claim":               {withVolume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}), nil},
		"emptyDir":            {withVolume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), nil},
		"emptyDir in memory":  {withVolume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}), nil},
		"emptyDir of pages":   {withVolume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}}), []string{v1alpha1.ReasonVolumeNotPortable}},
		"directory of a node": {withVolume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}), []string{v1alpha1.ReasonVolumeNotPortable}},
		"claim of the pod":    {withVolume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}), []string{v1alpha1.ReasonVolumeNotPortable}},
		"other driver":        {withVolume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}), []string{v1alpha1.ReasonVolumeNotPortable}},
		"a volume for init only": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.InitContainers = []corev1.Container{{Name: "init", VolumeMounts: []corev1.VolumeMount{{Name: "v"}}}}
		}, nil},
		"several at once": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.Containers[0].TTY = true
		}, []string{v1alpha1.ReasonHostNetwork, v1alpha1.ReasonTerminal}},
	} {
		t.Run(name, func(t *testing.T) {
			failures := CheckPod(bare(tc.change))
			if got := reasonsOf(failures); !slices.Equal(got, tc.reasons) {
				t.Errorf("CheckPod = %+v, want %v", failures, tc.reasons)
			}
			for _, f := range failures {
				if len(f.Message) < 20 {
					t.Errorf("%s does not say what to do: %q", f.Reason, f.Message)
				}
			}
		})
	}
}

func reasonsOf(failures []v1alpha1.Failure) []string {
	var reasons []string
	for _, f := range failures {
		reasons = append(reasons, f.Reason)
	}
	return reasons
}

func TestCheckVolumes(t *testing.T) {
	claim := func(status, spec []corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{AccessModes: spec}, Status: corev1.PersistentVolumeClaimStatus{AccessModes: status}}
	}
	modes := func(m ...corev1.PersistentVolumeAccessMode) []corev1.PersistentVolumeAccessMode { return m }
	const (
		rwo, rox, rwx, rwop = corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod
	)
	pod := bare(withVolume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}))
	on := func(s corev1.PersistentVolumeSource) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: s}}
	}
	for name, tc := range map[string]struct {
		claim  *corev1.PersistentVolumeClaim
		ok     bool
		volume *corev1.PersistentVolume
	}{
		"shared":                {claim(modes(rwx), modes(rwx)), true, nil},
		"read only":             {claim(modes(rox), nil), true, nil},
		"one of several":        {claim(modes(rwo, rwx), nil), true, nil},
		"one node":              {claim(modes(rwo), modes(rwo)), false, nil},
		"one pod":               {claim(modes(rwop), nil), false, nil},
		"wanted, not yet bound": {claim(nil, modes(rwx)), true, nil},
		"what it got counts":    {claim(modes(rwo), modes(rwx)), false, nil},
		"no mode":               {claim(nil, nil), false, nil},
		"missing":               {nil, false, nil},
		"shared, of a server":   {claim(modes(rwx), nil), true, on(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}})},
		"shared by one node":    {claim(modes(rwx), nil), false, on(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{}})},
		"local":                 {claim(modes(rox), nil), false, on(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}})},
	} {
		t.Run(name, func(t *testing.T) {
			failures := CheckVolumes(pod, map[string]Claim{"c": {Claim: tc.claim, Volume: tc.volume}}, v1alpha1.VolumePolicyReject)
			if tc.ok != (len(failures) == 0) || !tc.ok && (failures[0].Reason != v1alpha1.ReasonVolumeNotPortable || !strings.Contains(failures[0].Message, `volume "v"`)) {
				t.Errorf("CheckVolumes = %+v", failures)
			}
		})
	}
	if got := CheckVolumes(bare(), nil, v1alpha1.VolumePolicyHandoff); got != nil {
		t.Errorf("no volumes: %+v", got)
	}
}

func TestEmptyDirs(t *testing.T) {
	pod := bare(withVolume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "init-only", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}})
	pod.Spec.InitContainers = []corev1.Container{{Name: "init", VolumeMounts: []corev1.VolumeMount{{Name: "init-only"}}}}
	if got := EmptyDirs(pod); len(got) != 1 || got[0] != "v" {
		t.Errorf("EmptyDirs = %q", got)
	}
}

// sidecar adds one that runs.
func sidecar(change func(*corev1.Container)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: "proxy", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)}
		change(&c)
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init"}, c)
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{
			Name: "proxy", Started: ptr(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
	}
}
