// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestHandoff(t *testing.T) {
	owner := func(version, kind string) *metav1.OwnerReference {
		return &metav1.OwnerReference{APIVersion: version, Kind: kind, Name: "owner"}
	}
	for name, c := range map[string]struct {
		owner    *metav1.OwnerReference
		volumes  []string
		spec     v1alpha1.MigrationSpec
		want     v1alpha1.Handoff
		refused  string
		mentions string
	}{
		"bare":                                {nil, nil, v1alpha1.MigrationSpec{}, "", "", ""},
		"bare, another name":                  {nil, nil, v1alpha1.MigrationSpec{TargetPodName: "other"}, "", "", ""},
		"bare, with a volume":                 {nil, []string{"data"}, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, "", ""},
		"bare, with a volume, another name":   {nil, []string{"data"}, v1alpha1.MigrationSpec{TargetPodName: "other"}, v1alpha1.HandoffSameName, v1alpha1.ReasonOwnedPod, "targetPodName"},
		"StatefulSet":                         {owner("apps/v1", "StatefulSet"), nil, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, "", ""},
		"StatefulSet, with a volume":          {owner("apps/v1", "StatefulSet"), []string{"data"}, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, "", ""},
		"StatefulSet, another name":           {owner("apps/v1", "StatefulSet"), nil, v1alpha1.MigrationSpec{TargetPodName: "other"}, v1alpha1.HandoffSameName, v1alpha1.ReasonOwnedPod, "targetPodName"},
		"another StatefulSet":                 {owner("apps.example/v1", "StatefulSet"), nil, v1alpha1.MigrationSpec{}, "", "", ""},
		"ReplicaSet":                          {owner("apps/v1", "ReplicaSet"), nil, v1alpha1.MigrationSpec{}, "", "", ""},
		"ReplicaSet, with volumes":            {owner("apps/v1", "ReplicaSet"), []string{"data", "more"}, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, v1alpha1.ReasonVolumeNotPortable, `volume "data", "more"`},
		"Job, with a volume":                  {owner("batch/v1", "Job"), []string{"data"}, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, v1alpha1.ReasonVolumeNotPortable, `Job "owner"`},
		"StatefulSet of others, with volumes": {owner("apps.example/v1", "StatefulSet"), []string{"data"}, v1alpha1.MigrationSpec{}, v1alpha1.HandoffSameName, v1alpha1.ReasonVolumeNotPortable, "StatefulSets"},
	} {
		t.Run(name, func(t *testing.T) {
			f := HandoffFacts{Owner: c.owner, Volumes: c.volumes}
			if got := HandoffOf(f); got != c.want {
				t.Errorf("HandoffOf = %q, want %q", got, c.want)
			}
			failures := CheckHandoff(f, &v1alpha1.Migration{Spec: c.spec})
			switch {
			case c.refused == "" && len(failures) == 0:
			case len(failures) != 1 || failures[0].Reason != c.refused || !strings.Contains(failures[0].Message, c.mentions):
				t.Errorf("CheckHandoff = %+v, want %s with %q", failures, c.refused, c.mentions)
			}
		})
	}
}

// claimed is a pod with two claims and a mount that an init container alone has.
func claimed() (*corev1.Pod, map[string]Claim) {
	claim := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name + "-claim", ReadOnly: name == "data"}}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", Namespace: "ns", Labels: map[string]string{"app": "db", v1alpha1.LabelMigration: "earlier"},
		Annotations: map[string]string{"kept": "yes", v1alpha1.AnnotationPlaceholder: "a lie"}},
		Spec: corev1.PodSpec{NodeName: "n1", SecurityContext: &corev1.PodSecurityContext{FSGroup: ptr(int64(1000))}, Volumes: []corev1.Volume{claim("data"), claim("shared"), claim("unused")},
			Containers: []corev1.Container{{Name: "app", Image: "app:v1", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "shared", MountPath: "/shared"}}}}}}
	of := func(mode corev1.PersistentVolumeAccessMode) Claim {
		return Claim{Claim: &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{AccessModes: []corev1.PersistentVolumeAccessMode{mode}}},
			Volume: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: string(mode)}}}
	}
	return pod, map[string]Claim{"data-claim": of(corev1.ReadWriteOnce), "shared-claim": of(corev1.ReadWriteMany)}
}

func TestVolumesThatAreHandedOver(t *testing.T) {
	pod, claims := claimed()
	if got := HandedOver(pod, claims, v1alpha1.VolumePolicyHandoff); !slices.Equal(got, []string{"data"}) {
		t.Errorf("handed over: %q", got)
	}
	if got := HandedOver(pod, claims, v1alpha1.VolumePolicyReject); got != nil {
		t.Errorf("handed over under Reject: %q", got)
	}
	claims["data-claim"] = claims["shared-claim"]
	if got := HandedOver(pod, claims, v1alpha1.VolumePolicyHandoff); got != nil {
		t.Errorf("handed over though several nodes can have them: %q", got)
	}
}

func TestClaimsThatOthersUse(t *testing.T) {
	source, _ := claimed()
	source.UID = "source"
	other := func(claim string, phase corev1.PodPhase) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other", UID: "other"}, Status: corev1.PodStatus{Phase: phase}}
		p.Spec.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		return p
	}
	for name, c := range map[string]struct {
		other   corev1.Pod
		refused bool
	}{
		"runs":          {other("data-claim", corev1.PodRunning), true},
		"waits":         {other("data-claim", corev1.PodPending), true},
		"has ended":     {other("data-claim", corev1.PodSucceeded), false},
		"another claim": {other("shared-claim", corev1.PodRunning), false},
	} {
		t.Run(name, func(t *testing.T) {
			got := CheckShared(source, []string{"data"}, []corev1.Pod{*source, c.other})
			if c.refused != (len(got) == 1) || c.refused && !strings.Contains(got[0].Message, `pod "other"`) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Under Handoff what is bound to its node is refused still, and what may be refused under
// Reject says what to do.
func TestVolumePolicies(t *testing.T) {
	pod, claims := claimed()
	if got := CheckVolumes(pod, claims, v1alpha1.VolumePolicyHandoff); len(got) != 0 {
		t.Errorf("Handoff: %+v", got)
	}
	if got := CheckVolumes(pod, claims, v1alpha1.VolumePolicyReject); len(got) != 1 || !strings.Contains(got[0].Message, "volumePolicy: Handoff") {
		t.Errorf("Reject: %+v", got)
	}
	for _, s := range []corev1.PersistentVolumeSource{{Local: &corev1.LocalVolumeSource{}}, {HostPath: &corev1.HostPathVolumeSource{}}} {
		claims["data-claim"].Volume.Spec.PersistentVolumeSource = s
		if got := CheckVolumes(pod, claims, v1alpha1.VolumePolicyHandoff); len(got) != 1 || strings.Contains(got[0].Message, "Handoff") {
			t.Errorf("a directory of a node: %+v", got)
		}
	}
	claims["data-claim"] = Claim{Claim: claims["data-claim"].Claim}
	if got := CheckVolumes(pod, claims, v1alpha1.VolumePolicyHandoff); len(got) != 1 {
		t.Errorf("an unknown volume: %+v", got)
	}
}

func TestWhereVolumesCanBeAttached(t *testing.T) {
	node := func(name, zone string) NodeInfo {
		return NodeInfo{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}
	}
	nodes := []NodeInfo{node("n2", "a"), node("n3", "b"), node("n4", "b")}
	volume := func(zones ...string) Claim {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
		if zones != nil {
			v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{}}
		}
		for _, z := range zones { // alternatives
			v.Spec.NodeAffinity.Required.NodeSelectorTerms = append(v.Spec.NodeAffinity.Required.NodeSelectorTerms, corev1.NodeSelectorTerm{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{z}}}})
		}
		return Claim{Volume: v}
	}
	for name, c := range map[string]struct {
		claims map[string]Claim
		want   []string
	}{
		"anywhere":   {map[string]Claim{"a": volume(), "unknown": {}}, []string{"n2", "n3", "n4"}},
		"a zone":     {map[string]Claim{"a": volume("b")}, []string{"n3", "n4"}},
		"two zones":  {map[string]Claim{"a": volume("a", "b")}, []string{"n2", "n3", "n4"}},
		"both":       {map[string]Claim{"a": volume("a", "b"), "b": volume("a")}, []string{"n2"}},
		"nowhere":    {map[string]Claim{"a": volume("c")}, nil},
		"in no term": {map[string]Claim{"a": volume([]string{}...)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			able, failure := Attachable(nodes, c.claims)
			var got []string
			for _, n := range able {
				got = append(got, n.Name)
			}
			if !slices.Equal(got, c.want) || (failure == nil) == (c.want == nil) {
				t.Errorf("%q, failure %+v", got, failure)
			}
			if failure != nil && (failure.Reason != v1alpha1.ReasonNoEligibleNode || !strings.Contains(failure.Message, "n2: PersistentVolume")) {
				t.Errorf("failure %+v", failure)
			}
		})
	}
}

// A placeholder waits for no volume that only one node can have, and knows all of the pod.
func TestPlaceholderKnowsThePod(t *testing.T) {
	source, claims := claimed()
	m := keepsName(v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted)
	m.Status.Owner = nil
	p, err := BuildPlaceholder(source, m, "gate", corev1.PullAlways, []string{"n2", "n3"}, HandedOver(source, claims, v1alpha1.VolumePolicyHandoff))
	if err != nil {
		t.Fatal(err)
	}
	if v := p.Spec.Volumes; v[0].EmptyDir == nil || v[0].PersistentVolumeClaim != nil || v[1].PersistentVolumeClaim == nil || v[2].PersistentVolumeClaim == nil {
		t.Errorf("the placeholder's volumes are %+v", v)
	}
	if source.Spec.Volumes[0].PersistentVolumeClaim == nil {
		t.Error("the source was changed")
	}
	if !IsHeld(p) || len(p.Labels) != 1 || p.Labels[v1alpha1.LabelMigration] != "uid" {
		t.Errorf("the placeholder is %+v", p.ObjectMeta)
	}
	again, err := PodAgain(p, m)
	if err != nil {
		t.Fatal(err)
	}
	made := func(hostname string) *corev1.Pod {
		pod, err := SameNamePod(again, p, m, "gate", corev1.PullAlways, hostname)
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	got := made("n2")
	want := BuildTargetPod(source, m, "gate", corev1.PullAlways, []string{"n2"})
	want.Spec.SecurityContext.FSGroupChangePolicy = ptr(corev1.FSGroupChangeOnRootMismatch)
	want.Name, want.Labels = "db-1", map[string]string{"app": "db", v1alpha1.LabelMigration: "uid"}
	for what, pair := range map[string][2]any{
		"name": {got.Namespace + "/" + got.Name, "ns/db-1"}, "labels": {got.Labels, want.Labels}, "annotations": {got.Annotations, want.Annotations}, "spec": {got.Spec, want.Spec},
	} {
		if !equality.Semantic.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s of the pod that is made again:\n%+v\nwant\n%+v", what, pair[0], pair[1])
		}
	}
	if len(got.Finalizers) != 0 || len(got.OwnerReferences) != 0 {
		t.Errorf("made again: %+v", got.ObjectMeta)
	}
	if !equality.Semantic.DeepEqual(made("n2"), got) {
		t.Error("it is another pod the second time")
	}
	delete(p.Annotations, v1alpha1.AnnotationPlaceholder)
	if _, err := PodAgain(p, m); err == nil {
		t.Error("a pod is made of a placeholder that knows nothing")
	}
	if _, err := SameNamePod(again, p, m, "gate", corev1.PullAlways, "n2"); err == nil {
		t.Error("a target is made of a placeholder that knows nothing")
	}
}

// Whoever may change annotations in a namespace gets no volume of the node by way of what
// the manager makes.
func TestForgedPlaceholderBringsNoOtherVolumes(t *testing.T) {
	source, _ := claimed()
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "ns", UID: "uid"}, Spec: v1alpha1.MigrationSpec{PodName: "db-1"}}
	p, err := BuildPlaceholder(source, m, "gate", corev1.PullAlways, nil, []string{"data"})
	if err != nil {
		t.Fatal(err)
	}
	p.Annotations[v1alpha1.AnnotationPlaceholder] = `{"claims":{"data":{"claimName":"mine","hostPath":{"path":"/"}},"shared":{"hostPath":{"path":"/"}},"new":{"claimName":"x"}},` +
		`"volumes":[{"name":"data","hostPath":{"path":"/"}}]}`
	again, err := PodAgain(p, m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := SameNamePod(again, p, m, "gate", corev1.PullAlways, "n2")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Spec.Volumes) != len(source.Spec.Volumes) {
		t.Errorf("volumes: %+v", got.Spec.Volumes)
	}
	for _, v := range got.Spec.Volumes {
		if v.PersistentVolumeClaim == nil || v.HostPath != nil {
			t.Errorf("volume %s is %+v", v.Name, v.VolumeSource)
		}
	}
}

func TestPlaceholderIsLetGo(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: "7", Finalizers: []string{"other", v1alpha1.FinalizerPlaceholder}}}
	body, err := LetGoPatch(p)
	if err != nil || !strings.Contains(string(body), `"value":["other"]`) || !strings.Contains(string(body), `"/metadata/resourceVersion","value":"7"`) {
		t.Errorf("%s, %v", body, err)
	}
	p.Finalizers = p.Finalizers[1:]
	if body, err = LetGoPatch(p); err != nil || !strings.Contains(string(body), `{"op":"remove","path":"/metadata/finalizers"}`) {
		t.Errorf("%s, %v", body, err)
	}
	if IsHeld(&corev1.Pod{}) || !IsHeld(p) {
		t.Error("IsHeld")
	}
}

func TestDecisionsForPodsThatTheManagerMakesAgain(t *testing.T) {
	source := PodFacts{Exists: true, UID: "source", NodeName: "n1", Phase: corev1.PodRunning}
	placeholder := PodFacts{Exists: true, UID: "placeholder", NodeName: "n2", Held: true}
	removed := placeholder
	removed.Deleting = true
	target := PodFacts{Exists: true, UID: "target", NodeName: "n2", Phase: corev1.PodPending}
	gone := func(change func(*Observation)) func(*Observation) {
		return func(o *Observation) {
			o.Source = PodFacts{}
			if change != nil {
				change(o)
			}
		}
	}
	for name, c := range map[string]struct {
		phase  v1alpha1.MigrationPhase
		change func(*Observation)
		want   Action
		enters v1alpha1.MigrationPhase
		lost   string
	}{
		"committed":                         {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Target = placeholder }, Advance, v1alpha1.PhaseReplacing, ""},
		"committed, placeholder is leaving": {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Target = removed }, Advance, v1alpha1.PhaseReplacing, ""},
		"committed, nothing is known":       {v1alpha1.PhaseSwitchingOver, nil, Reclaim, v1alpha1.PhaseRollingBack, ""},
		"given up":                          {v1alpha1.PhaseReplacing, nil, DeleteSource, "", ""},
		"given up, nothing is known":        {v1alpha1.PhaseReplacing, func(o *Observation) { o.Placeholder = PodFacts{} }, Wait, "", v1alpha1.ReasonTargetPodGone},
		"being removed":                     {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source.Deleting = true }, Wait, "", ""},
		"removed":                           {v1alpha1.PhaseReplacing, gone(nil), MakeAgain, "", ""},
		"the placeholder too":               {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Placeholder = removed }), MakeAgain, "", ""},
		"by force":                          {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Placeholder = PodFacts{} }), Wait, "", v1alpha1.ReasonTargetPodGone},
		"somebody else's pod":               {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Usurped = true }), Wait, "", v1alpha1.ReasonReplacementNotSteered},
		"its node says nothing":             {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.TargetNode.NotReady = "Unknown" }), MakeAgain, "", v1alpha1.ReasonTargetNodeNotReady},
		"its node is gone":                  {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.TargetNode = TargetNode{Known: true} }), MakeAgain, "", v1alpha1.ReasonTargetNodeLost},
		"its node is gone, and all else":    {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.TargetNode, o.Placeholder = TargetNode{Known: true}, PodFacts{} }), Wait, "", v1alpha1.ReasonTargetNodeLost},
		"there again":                       {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Target = target }), DeletePlaceholder, "", ""},
		"the placeholder is held":           {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Target, o.Placeholder = target, removed }), Wait, "", ""},
		"it runs, the placeholder is held":  {v1alpha1.PhaseCompleting, gone(func(o *Observation) { o.Target, o.Placeholder = target, removed }), DropPlaceholder, "", ""},
		"removed while it was restored":     {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Migration.Status.Target.RestoreStartedAt = &metav1.MicroTime{} }), Wait, "", ""},
		"ran and lost":                      {v1alpha1.PhaseReplacing, gone(func(o *Observation) { o.Migration.Status.Target.TreeGoneAt = &metav1.MicroTime{} }), Wait, "", v1alpha1.ReasonTargetPodGone},
		"rolled back":                       {v1alpha1.PhaseRollingBack, func(o *Observation) { o.Migration.Status.Handover.State, o.Target = v1alpha1.HandoverAborted, removed }, DeleteTarget, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := keepsName(c.phase, v1alpha1.HandoverCommitted)
			m.Status.Owner = nil
			o := Observation{Now: simStart, Migration: m, Source: source, Placeholder: placeholder, TargetNode: TargetNode{Known: true, Exists: true}}
			if c.change != nil {
				c.change(&o)
			}
			d := Decide(o)
			lost := ""
			if d.Lost != nil {
				lost = d.Lost.Reason
			}
			if d.Action != c.want || d.Phase != c.enters || lost != c.lost || d.Message == "" {
				t.Errorf("%+v, lost %q", d, lost)
			}
			if lost == v1alpha1.ReasonTargetPodGone && strings.Contains(d.Message, "the pod then starts from its image") {
				t.Errorf("who would start it? %s", d.Message)
			}
		})
	}
}
