// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// ownedPod is a pod of that controller.
func ownedPod(apiVersion, kind string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1", UID: "pod", ResourceVersion: "7", Labels: labels,
		OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "config"},
			{APIVersion: apiVersion, Kind: kind, Name: "web", UID: "owner", Controller: ptr(true), BlockOwnerDeletion: ptr(true)},
		}}}
}

func deploymentPod() *corev1.Pod {
	return ownedPod("apps/v1", "ReplicaSet", map[string]string{"app": "web", "pod-template-hash": "abc"})
}

func jobPod() *corev1.Pod {
	pod := ownedPod("batch/v1", "Job", map[string]string{"job-name": "web", "batch.kubernetes.io/job-name": "web",
		"controller-uid": "owner", "batch.kubernetes.io/controller-uid": "owner"})
	pod.Finalizers = []string{"example.com/other", batchv1.JobTrackingFinalizer}
	return pod
}

// patched is what the API server makes of the patch.
func patched(t *testing.T, pod *corev1.Pod, body []byte) *corev1.Pod {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = patch.Apply(raw); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	after := &corev1.Pod{}
	if err := json.Unmarshal(raw, after); err != nil {
		t.Fatal(err)
	}
	return after
}

func TestReleaseLabels(t *testing.T) {
	selector := func(labels map[string]string, expressions ...metav1.LabelSelectorRequirement) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: labels, MatchExpressions: expressions}
	}
	for name, tc := range map[string]struct {
		pod      *corev1.Pod
		selector *metav1.LabelSelector
		used     map[string]bool
		want     []string
	}{
		"Deployment": {deploymentPod(), selector(map[string]string{"app": "web", "pod-template-hash": "abc"}), nil, []string{"pod-template-hash"}},
		"Job": {jobPod(), selector(map[string]string{"batch.kubernetes.io/controller-uid": "owner"}), nil,
			[]string{"batch.kubernetes.io/controller-uid", "controller-uid"}},
		"Job with a selector of its own": {jobPod(), selector(map[string]string{"job-name": "web"}), nil, []string{"job-name"}},
		"bare ReplicaSet":                {deploymentPod(), selector(map[string]string{"app": "web"}), nil, []string{"app"}},
		"whose label a Service uses":     {deploymentPod(), selector(map[string]string{"app": "web"}), map[string]bool{"app": true}, nil},
		"one of two is free":             {ownedPod("apps/v1", "ReplicaSet", map[string]string{"app": "web", "tier": "x"}), selector(map[string]string{"app": "web", "tier": "x"}), map[string]bool{"app": true}, []string{"tier"}},
		"by an expression":               {ownedPod("apps/v1", "ReplicaSet", map[string]string{"app": "web"}), selector(nil, metav1.LabelSelectorRequirement{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web"}}), nil, []string{"app"}},
		"that any value satisfies":       {ownedPod("apps/v1", "ReplicaSet", map[string]string{"app": "web"}), selector(nil, metav1.LabelSelectorRequirement{Key: "app", Operator: metav1.LabelSelectorOpExists}), nil, nil},
		"no selector":                    {deploymentPod(), nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := ReleaseLabels(tc.pod, tc.selector, tc.used)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if len(got) == 0 {
				return
			}
			body, err := ReleasePatch(tc.pod, migrationOf("web-1", "1"), got)
			if err != nil {
				t.Fatal(err)
			}
			s, err := metav1.LabelSelectorAsSelector(tc.selector)
			if err != nil {
				t.Fatal(err)
			}
			if after := patched(t, tc.pod, body); s.Matches(labelSet(after.Labels)) || metav1.GetControllerOf(after) != nil {
				t.Errorf("the controller still finds it: %+v", after.ObjectMeta)
			}
		})
	}
}

type labelSet map[string]string

func (s labelSet) Has(label string) bool   { _, ok := s[label]; return ok }
func (s labelSet) Get(label string) string { return s[label] }
func (s labelSet) Lookup(label string) (string, bool) {
	v, ok := s[label]
	return v, ok
}

// What a release takes is given back exactly, whatever the pod had before.
func TestReleaseIsTakenBackExactly(t *testing.T) {
	m := migrationOf("web-1", "1")
	for name, pod := range map[string]*corev1.Pod{
		"Deployment": deploymentPod(),
		"Job":        jobPod(),
		"with a deletion cost": func() *corev1.Pod {
			p := deploymentPod()
			p.Annotations = map[string]string{corev1.PodDeletionCost: "5", "a": "b"}
			return p
		}(),
		"only the controller owns it": func() *corev1.Pod {
			p := deploymentPod()
			p.OwnerReferences = p.OwnerReferences[1:]
			return p
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			var labels []string
			for key := range pod.Labels {
				if OwnLabel(key) {
					labels = append(labels, key)
				}
			}
			body, err := ReleasePatch(pod, m, labels)
			if err != nil {
				t.Fatal(err)
			}
			released := patched(t, pod, body)
			r := ReleasedBy(released, m)
			if r == nil || ReleasedBy(released, migrationOf("web-1", "2")) != nil {
				t.Fatalf("released by %+v", r)
			}
			if slices.Contains(released.Finalizers, batchv1.JobTrackingFinalizer) || len(released.OwnerReferences) != len(pod.OwnerReferences)-1 {
				t.Errorf("released = %+v", released.ObjectMeta)
			}
			if body, err = ReturnPatch(released, r, true); err != nil {
				t.Fatal(err)
			}
			returned := patched(t, released, body)
			if r = ReleasedBy(returned, m); r == nil || !r.Returned || returned.Annotations[corev1.PodDeletionCost] != neverFirst {
				t.Fatalf("returned = %+v", returned.ObjectMeta)
			}
			if body, err = SettlePatch(returned, r); err != nil {
				t.Fatal(err)
			}
			settled := patched(t, returned, body)
			if !maps.Equal(settled.Labels, pod.Labels) || !maps.Equal(settled.Annotations, pod.Annotations) ||
				!equality.Semantic.DeepEqual(settled.OwnerReferences, pod.OwnerReferences) || !slices.Equal(settled.Finalizers, pod.Finalizers) {
				t.Errorf("settled = %+v\nwas %+v", settled.ObjectMeta, pod.ObjectMeta)
			}
		})
	}
}

func TestOrphanGetsItsLabelsAndNoOwner(t *testing.T) {
	m := migrationOf("web-1", "1")
	body, err := ReleasePatch(jobPod(), m, []string{"controller-uid"})
	if err != nil {
		t.Fatal(err)
	}
	released := patched(t, jobPod(), body)
	if body, err = ReturnPatch(released, ReleaseOf(released), false); err != nil {
		t.Fatal(err)
	}
	after := patched(t, released, body)
	if !maps.Equal(after.Labels, jobPod().Labels) || metav1.GetControllerOf(after) != nil || len(after.Annotations) != 0 ||
		slices.Contains(after.Finalizers, batchv1.JobTrackingFinalizer) {
		t.Errorf("after = %+v", after.ObjectMeta)
	}
}

// Whoever has written the pod since it was read, or is another of its name, is not
// written over.
func TestReleasePatchesAreGuarded(t *testing.T) {
	m := migrationOf("web-1", "1")
	release, err := ReleasePatch(deploymentPod(), m, []string{"pod-template-hash"})
	if err != nil {
		t.Fatal(err)
	}
	released := patched(t, deploymentPod(), release)
	back, err := ReturnPatch(released, ReleaseOf(released), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{release, back} {
		for name, change := range map[string]func(*corev1.Pod){
			"written": func(p *corev1.Pod) { p.ResourceVersion = "8" },
			"another": func(p *corev1.Pod) { p.UID = "other" },
		} {
			pod := released.DeepCopy()
			change(pod)
			raw, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			patch, err := jsonpatch.DecodePatch(body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := patch.Apply(raw); err == nil || !strings.Contains(err.Error(), "test") {
				t.Errorf("%s pod: %v", name, err)
			}
		}
	}
}

func TestReplicaSetFacts(t *testing.T) {
	rs := func(change func(*appsv1.ReplicaSet)) *appsv1.ReplicaSet {
		r := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "owner", Generation: 2, Annotations: map[string]string{revisionAnnotation: "3"}}}
		r.Spec.Replicas, r.Status.Replicas, r.Status.ObservedGeneration = ptr(int32(2)), 2, 2
		if change != nil {
			change(r)
		}
		return r
	}
	deployment := func(change func(*appsv1.Deployment)) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Generation: 4, Annotations: map[string]string{revisionAnnotation: "3"}}}
		d.Spec.Replicas, d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.ObservedGeneration = ptr(int32(2)), 2, 2, 4
		if change != nil {
			change(d)
		}
		return d
	}
	now := metav1.Now()
	for name, tc := range map[string]struct {
		rs         *appsv1.ReplicaSet
		deployment *appsv1.Deployment
		unsettled  string
		superseded bool
		gone       bool
	}{
		"bare":                  {rs(nil), nil, "", false, false},
		"settled":               {rs(nil), deployment(nil), "", false, false},
		"gone":                  {nil, nil, "", false, true},
		"being deleted":         {rs(func(r *appsv1.ReplicaSet) { r.DeletionTimestamp = &now }), nil, "", false, true},
		"Deployment on its way": {rs(nil), deployment(func(d *appsv1.Deployment) { d.DeletionTimestamp = &now }), "", false, true},
		"scaled, not seen yet":  {rs(func(r *appsv1.ReplicaSet) { r.Generation = 3 }), deployment(nil), "scaled", false, false},
		"being scaled":          {rs(func(r *appsv1.ReplicaSet) { r.Status.Replicas = 1 }), nil, "scaled", false, false},
		"scaled to nothing":     {rs(func(r *appsv1.ReplicaSet) { r.Spec.Replicas, r.Status.Replicas = ptr(int32(0)), 0 }), nil, "scaled to 0", false, false},
		"another revision":      {rs(nil), deployment(func(d *appsv1.Deployment) { d.Annotations[revisionAnnotation] = "4" }), "rolled out", true, false},
		"change not seen yet":   {rs(nil), deployment(func(d *appsv1.Deployment) { d.Generation = 5 }), "rolled out", false, false},
		"old pods are left":     {rs(nil), deployment(func(d *appsv1.Deployment) { d.Status.Replicas = 3 }), "rolled out", false, false},
		"new pods are missing":  {rs(nil), deployment(func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }), "rolled out", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			pods := []corev1.Pod{*deploymentPod(), *deploymentPod(), *deploymentPod(), *jobPod()}
			pods[1].Status.Phase = corev1.PodFailed
			pods[2].DeletionTimestamp = &now
			pods[3].OwnerReferences[1].UID = "another"
			f := ReplicaSetFacts(OwnerFacts{Kind: KindReplicaSet, Name: "web"}, tc.rs, tc.deployment, pods)
			if f.Gone != tc.gone || f.Superseded != tc.superseded || (f.Unsettled == "") != (tc.unsettled == "") || !strings.Contains(f.Unsettled, tc.unsettled) {
				t.Errorf("%+v", f)
			}
			if tc.rs != nil && tc.rs.DeletionTimestamp == nil && f.Has != 1 {
				t.Errorf("has %d", f.Has)
			}
		})
	}
}

func TestJobFacts(t *testing.T) {
	job := func(change func(*batchv1.Job)) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "owner"}}
		j.Spec.Parallelism, j.Spec.Completions = ptr(int32(2)), ptr(int32(5))
		if change != nil {
			change(j)
		}
		return j
	}
	indexed := func(i string) *corev1.Pod {
		p := jobPod()
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: i}
		return p
	}
	ended := func(kind batchv1.JobConditionType) *batchv1.Job {
		return job(func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue}}
		})
	}
	for name, tc := range map[string]struct {
		job        *batchv1.Job
		wants, has int
		unsettled  string
		gone       bool
	}{
		"running":            {job(nil), 2, 3, "", false},
		"nearly done":        {job(func(j *batchv1.Job) { j.Status.Succeeded = 4 }), 1, 3, "", false},
		"a queue's workers":  {job(func(j *batchv1.Job) { j.Spec.Completions = nil }), 2, 3, "", false},
		"of which one ended": {job(func(j *batchv1.Job) { j.Spec.Completions, j.Status.Succeeded = nil, 1 }), 3, 3, "", false},
		"indexed":            {job(func(j *batchv1.Job) { j.Spec.CompletionMode = ptr(batchv1.IndexedCompletion) }), 1, 2, "", false},
		"suspended":          {job(func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) }), 0, 3, "suspended", false},
		"complete":           {ended(batchv1.JobComplete), 3, 3, "ended", false},
		"failing":            {ended(batchv1.JobFailureTarget), 3, 3, "ended", false},
		"gone":               {nil, 0, 0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			pods := []corev1.Pod{*indexed("0"), *indexed("1"), *indexed("1")}
			f := JobFacts(OwnerFacts{}, tc.job, indexed("1"), pods)
			if f.Wants != tc.wants || f.Has != tc.has || f.Gone != tc.gone || (f.Unsettled == "") != (tc.unsettled == "") || !strings.Contains(f.Unsettled, tc.unsettled) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestReleasable(t *testing.T) {
	for ref, want := range map[[2]string]bool{
		{"apps/v1", "ReplicaSet"}: true, {"batch/v1", "Job"}: true, {"apps/v1", "StatefulSet"}: false, {"apps/v1", "DaemonSet"}: false,
		{"v1", "ReplicationController"}: false, {"example.com/v1", "ReplicaSet"}: false, {"batch.example.com/v1", "Job"}: false,
	} {
		if got := Releasable(&metav1.OwnerReference{APIVersion: ref[0], Kind: ref[1]}); got != want {
			t.Errorf("%v: %v", ref, got)
		}
	}
}

func TestSourceOwner(t *testing.T) {
	m := migrationOf("web-1", "1")
	if f := SourceOwner(m, deploymentPod(), nil); f.Kind != KindReplicaSet || f.Name != "web" || f.Changed {
		t.Errorf("before it is recorded: %+v", f)
	}
	m.Status.Owner = &v1alpha1.OwnerStatus{Kind: KindJob, Name: "web", UID: "owner"}
	if f := SourceOwner(m, jobPod(), jobPod()); f.Changed || f.Released || f.TargetUncounted {
		t.Errorf("attached: %+v", f)
	}
	if f := SourceOwner(m, jobPod(), jobPod()); f.TargetUnmarked {
		t.Errorf("a Job knows no cost: %+v", f)
	}
	body, err := MarkPatch(deploymentPod())
	if err != nil {
		t.Fatal(err)
	}
	m.Status.Owner.Kind = KindReplicaSet
	if f, marked := SourceOwner(m, nil, deploymentPod()), SourceOwner(m, nil, patched(t, deploymentPod(), body)); !f.TargetUnmarked || marked.TargetUnmarked {
		t.Errorf("unmarked %+v, marked %+v", f, marked)
	}
	m.Status.Owner.Kind = KindJob
	uncounted := jobPod()
	uncounted.Finalizers = nil
	if f := SourceOwner(m, jobPod(), uncounted); !f.TargetUncounted {
		t.Errorf("uncounted: %+v", f)
	}
	taken := jobPod()
	taken.OwnerReferences = nil
	if f := SourceOwner(m, taken, nil); !f.Changed {
		t.Errorf("taken by somebody: %+v", f)
	}
	m.Status.Owner.UID = types.UID("other")
	if f := SourceOwner(m, jobPod(), nil); !f.Changed {
		t.Errorf("another's: %+v", f)
	}
}
