// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

func migrationOf(pod, uid string) *v1alpha1.Migration {
	return &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "move-" + uid, UID: types.UID(uid)}, Spec: v1alpha1.MigrationSpec{PodName: pod}}
}

func build(source *corev1.Pod, nodes ...string) *corev1.Pod {
	return BuildTargetPod(source, migrationOf(source.Name, "1"), "godwit:v1", corev1.PullIfNotPresent, nodes)
}

func requirements(pod *corev1.Pod) [][]corev1.NodeSelectorRequirement {
	var all [][]corev1.NodeSelectorRequirement
	for _, t := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		all = append(all, t.MatchExpressions)
	}
	return all
}

func requirement(key string, values ...string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}
}

func TestTargetIsTheSourceElsewhere(t *testing.T) {
	source := bare(func(p *corev1.Pod) {
		p.Annotations = map[string]string{"a": "b", corev1.LastAppliedConfigAnnotation: "{}", "cni.projectcalico.org/podIP": "10.0.0.1"}
		p.OwnerReferences = []metav1.OwnerReference{{Name: "x"}}
		p.Finalizers = []string{"x/y"}
		p.Spec.ServiceAccountName = "redis"
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k"}}
		p.Spec.InitContainers = []corev1.Container{{Name: "init"}}
		p.Spec.Priority, p.Spec.PreemptionPolicy, p.Spec.PriorityClassName = ptr(int32(7)), ptr(corev1.PreemptNever), "high"
		p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		p.Spec.SchedulerName, p.Spec.RestartPolicy = "other", corev1.RestartPolicyNever
	})
	before := source.DeepCopy()
	pod := build(source, "n3", "n2")
	if !equality.Semantic.DeepEqual(source, before) {
		t.Error("the source was changed")
	}
	if pod.Namespace != "ns" || pod.UID != "" || pod.Spec.NodeName != "" || pod.OwnerReferences != nil || pod.Finalizers != nil || pod.Status.Phase != "" {
		t.Errorf("target = %+v", pod)
	}
	if pod.Labels["app"] != "redis" || pod.Labels[v1alpha1.LabelMigration] != "1" {
		t.Errorf("labels = %v", pod.Labels)
	}
	if want := map[string]string{"a": "b", v1alpha1.AnnotationMigration: "ns/move-1"}; !equality.Semantic.DeepEqual(pod.Annotations, want) {
		t.Errorf("annotations = %v", pod.Annotations)
	}
	s := &pod.Spec
	if s.ServiceAccountName != "redis" || len(s.Tolerations) != 1 || s.SchedulerName != "other" || s.RestartPolicy != corev1.RestartPolicyNever || s.PriorityClassName != "high" {
		t.Errorf("spec = %+v", s)
	}
	if s.Priority != nil || s.PreemptionPolicy != nil || s.Overhead != nil {
		t.Error("what admission computes was copied")
	}
	if *s.RuntimeClassName != v1alpha1.RuntimeClassName || s.Hostname != "redis" {
		t.Errorf("runtime class %v, hostname %q", *s.RuntimeClassName, s.Hostname)
	}
	if got := requirements(pod); len(got) != 1 || len(got[0]) != 1 || !equality.Semantic.DeepEqual(got[0][0], requirement(corev1.LabelHostname, "n2", "n3")) {
		t.Errorf("affinity = %+v", got)
	}
	if len(s.InitContainers) != 1 || s.InitContainers[0].Name != v1alpha1.GateContainerName {
		t.Errorf("init containers = %+v", s.InitContainers)
	}
}

func TestGate(t *testing.T) {
	pod := build(bare(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("5Gi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		}
	}), "n2")
	g := pod.Spec.InitContainers[0]
	if g.Image != "godwit:v1" || g.ImagePullPolicy != corev1.PullIfNotPresent || !slices.Equal(g.Command, []string{"/usr/local/bin/godwit-runc", "gate"}) {
		t.Errorf("gate = %+v", g)
	}
	// Its requests and limits keep the pod's QoS class and size.
	if len(g.Resources.Requests) != 2 || g.Resources.Requests.Cpu().String() != "2" || len(g.Resources.Limits) != 1 || g.Resources.Limits.Memory().String() != "1Gi" {
		t.Errorf("resources = %+v", g.Resources)
	}
	sc := g.SecurityContext
	if *sc.AllowPrivilegeEscalation || !*sc.RunAsNonRoot || *sc.RunAsUser == 0 || !*sc.ReadOnlyRootFilesystem ||
		!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context = %+v", sc)
	}
	if best := build(bare(), "n2").Spec.InitContainers[0].Resources; best.Requests != nil || best.Limits != nil {
		t.Errorf("a best-effort pod's gate asks for %+v", best)
	}
}

func TestTargetHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-bcd"
	for name, tc := range map[string]struct{ pod, hostname, want string }{
		"its name":            {"redis", "", "redis"},
		"its own":             {"redis", "db", "db"},
		"too long":            {long, "", strings.Repeat("a", 62)},
		"63 are allowed":      {strings.Repeat("a", 64), "", strings.Repeat("a", 63)},
		"a name with dots":    {"redis.v1", "", ""},
		"dots but a hostname": {"redis.v1", "db", "db"},
	} {
		t.Run(name, func(t *testing.T) {
			source := bare(func(p *corev1.Pod) { p.Name, p.Spec.Hostname = tc.pod, tc.hostname })
			if got := build(source, "n2").Spec.Hostname; got != tc.want {
				t.Errorf("hostname = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestImagesArePinned(t *testing.T) {
	const sum = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for name, tc := range map[string]struct{ imageID, want string }{
		"pulled":               {"registry.example/redis" + sum, "registry.example/redis" + sum},
		"with an old scheme":   {"docker-pullable://redis" + sum, "redis" + sum},
		"loaded, never pulled": {sum[1:], "redis:7"},
		"nothing known":        {"", "redis:7"},
		"no repository":        {sum, "redis:7"},
	} {
		t.Run(name, func(t *testing.T) {
			source := bare(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ImageID = tc.imageID })
			if got := build(source, "n2").Spec.Containers[0].Image; got != tc.want {
				t.Errorf("image = %q, want %q", got, tc.want)
			}
		})
	}
	if got := build(bare(func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), "n2").Spec.Containers[0].Image; got != "redis:7" {
		t.Errorf("without a status: %q", got)
	}
}

func withTerms(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
	}
}

func TestAffinityIsAndedIntoEveryTerm(t *testing.T) {
	zone, disk := requirement("zone", "a"), requirement("disk", "ssd")
	pod := build(bare(withTerms(
		corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{zone}},
		corev1.NodeSelectorTerm{}, // matches no node, and must not begin to
		corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{requirement("metadata.name", "n2")}},
		corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{disk, requirement(corev1.LabelHostname, "n2", "n7")}},
	)), "n2")
	want := [][]corev1.NodeSelectorRequirement{
		{zone, requirement(corev1.LabelHostname, "n2")},
		{requirement(corev1.LabelHostname, "n2")},
		{disk, requirement(corev1.LabelHostname, "n2", "n7"), requirement(corev1.LabelHostname, "n2")},
	}
	if got := requirements(pod); !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("affinity = %+v\nwant %+v", got, want)
	}
}

func TestOtherAffinityIsKept(t *testing.T) {
	pod := build(bare(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}, NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 5}}}}
	}), "n2")
	if a := pod.Spec.Affinity; a.PodAntiAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Errorf("affinity = %+v", a)
	}
}

// However often a pod moves, it keeps its shape.
func TestTargetOfATargetHasTheSameShape(t *testing.T) {
	zone := requirement("zone", "a")
	pinned := requirement(corev1.LabelHostname, "n1", "n2", "n3") // the user's own
	for name, source := range map[string]*corev1.Pod{
		"plain":         bare(),
		"with affinity": bare(withTerms(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{zone}}, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{zone}})),
		"pinned":        bare(withTerms(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{pinned}})),
		"with init":     bare(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "init"}} }),
		"with volumes":  bare(withVolume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}), withRequest(corev1.ResourceMemory, "1Gi")),
	} {
		t.Run(name, func(t *testing.T) {
			first := BuildTargetPod(source, migrationOf("redis", "1"), "godwit:v1", corev1.PullIfNotPresent, []string{"n2"})
			m := migrationOf(first.Name, "2")
			second := BuildTargetPod(first, m, "godwit:v1", corev1.PullIfNotPresent, []string{"n2"})
			if len(second.Name) != len(first.Name) || second.Name == first.Name {
				t.Errorf("names: %s, then %s", first.Name, second.Name)
			}
			if second.Labels[v1alpha1.LabelMigration] != "2" || second.Annotations[v1alpha1.AnnotationMigration] != "ns/move-2" || len(second.Labels) != len(first.Labels) {
				t.Errorf("labels %v, annotations %v", second.Labels, second.Annotations)
			}
			if !equality.Semantic.DeepEqual(first.Spec, second.Spec) {
				t.Errorf("spec\n%+v\nwant\n%+v", second.Spec, first.Spec)
			}
		})
	}
}

func TestTargetPodName(t *testing.T) {
	named := migrationOf("redis", "1")
	named.Spec.TargetPodName = "redis-2"
	if got := TargetPodName(named); got != "redis-2" {
		t.Errorf("name = %q", got)
	}
	long := strings.Repeat("a", 246) + "." + strings.Repeat("b", 6)
	for _, pod := range []string{"redis", "a", "redis.v1", long, strings.Repeat("x", 253), "web-7d4b9c-x2k4j"} {
		first := TargetPodName(migrationOf(pod, "1"))
		if first != TargetPodName(migrationOf(pod, "1")) {
			t.Errorf("%s: the name changes", pod)
		}
		if other := TargetPodName(migrationOf(pod, "2")); other == first {
			t.Errorf("%s: another Migration gets the same name", pod)
		}
		if len(first) > maxNameLength || strings.Contains(first, ".-") || !suffixed.MatchString(first) {
			t.Errorf("%s: bad name %q", pod, first)
		}
		again := TargetPodName(migrationOf(first, "2"))
		if base := suffixed.FindStringSubmatch(first)[1]; suffixed.FindStringSubmatch(again)[1] != base || len(again) != len(first) {
			t.Errorf("%s: then %s, then %s", pod, first, again)
		}
	}
	// The very same suffix again must not give the same name.
	first := TargetPodName(migrationOf("redis", "1"))
	if again := TargetPodName(migrationOf(first, "1")); again == first || !strings.HasPrefix(again, "redis-m") {
		t.Errorf("%s, then %s", first, again)
	}
	// Words are left alone.
	if got := TargetPodName(migrationOf("redis-mouse", "1")); !strings.HasPrefix(got, "redis-mouse-m") {
		t.Errorf("name = %q", got)
	}
}

func FuzzTargetPodName(f *testing.F) {
	for _, s := range []string{"redis", "a.b-c", strings.Repeat("a", 253), "x-mbbbb", "x-mbbbb-mbbbb"} {
		f.Add(s, "uid")
	}
	f.Fuzz(func(t *testing.T, pod, uid string) {
		if !validName.MatchString(pod) || len(pod) > maxNameLength {
			t.Skip()
		}
		got := TargetPodName(migrationOf(pod, uid))
		if !validName.MatchString(got) || len(got) > maxNameLength || got == pod {
			t.Errorf("TargetPodName(%q, %q) = %q", pod, uid, got)
		}
	})
}
