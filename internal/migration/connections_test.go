// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestAddressesInAnnotations(t *testing.T) {
	for value, want := range map[string]string{
		`["192.168.0.1"]`:            "192.168.0.1",
		"10.16.0.15":                 "10.16.0.15",
		"10.16.0.15,fd00::f":         "10.16.0.15 fd00::f",
		`["10.0.0.1","2001:DB8::1"]`: "10.0.0.1 2001:db8::1",
		"10.0.0.1/24; 10.0.0.2/24":   "10.0.0.1 10.0.0.2",
		"::ffff:10.0.0.1":            "10.0.0.1",
		"10.0.0.300":                 "",
		"a: b, cafe":                 "",
		"":                           "",
	} {
		var got []string
		for _, a := range AddressesIn(value) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q has %v, not %s", value, got, want)
		}
	}
}

func addressed(annotations map[string]string, ips ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", Namespace: "ns", Annotations: annotations}}
	for _, ip := range ips {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return pod
}

func TestWhatPinsAnAddress(t *testing.T) {
	const calico, own = "cni.projectcalico.org/ipAddrs", "example.com/address"
	both := []string{"10.0.0.5", "fd00::5"}
	for name, c := range map[string]struct {
		annotations map[string]string
		ips         []string
		want        string // the annotation, or the reason
	}{
		"Calico's":               {map[string]string{calico: `["10.0.0.5"]`}, both[:1], calico},
		"Kube-OVN's":             {map[string]string{"ovn.kubernetes.io/ip_address": "10.0.0.5"}, both[:1], "ovn.kubernetes.io/ip_address"},
		"Antrea's":               {map[string]string{"ipam.antrea.io/pod-ips": "10.0.0.5"}, both[:1], "ipam.antrea.io/pod-ips"},
		"another one":            {map[string]string{own: "10.0.0.5"}, both[:1], own},
		"both families":          {map[string]string{calico: `["10.0.0.5","fd00:0::5"]`}, both, calico},
		"one of two":             {map[string]string{calico: `["10.0.0.5"]`}, both, v1alpha1.ReasonAddressNotPinned},
		"another address":        {map[string]string{calico: `["10.0.0.50"]`}, both[:1], v1alpha1.ReasonAddressNotPinned},
		"another, and the right": {map[string]string{calico: `["10.0.0.50"]`, own: "10.0.0.5"}, both[:1], own},
		"nobody's annotation":    {map[string]string{"example.com/other": "10.0.0.5"}, both[:1], v1alpha1.ReasonAddressNotPinned},
		"none":                   {nil, both[:1], v1alpha1.ReasonAddressNotPinned},
		"no address yet":         {map[string]string{calico: `["10.0.0.5"]`}, nil, v1alpha1.ReasonAddressNotPinned},
	} {
		s, f := CheckConnections(addressed(c.annotations, c.ips...), []string{own})
		var got string
		switch {
		case (s == nil) == (f == nil):
			t.Errorf("%s: %+v, %+v", name, s, f)
			continue
		case f != nil:
			got = f.Reason
			if !strings.Contains(f.Message, "spec.connections") {
				t.Errorf("%s: no remedy in %q", name, f.Message)
			}
		default:
			got = s.Annotation
			if !slices.Equal(s.Addresses, c.ips) || s.Value != c.annotations[got] {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}

// kept is a Migration that keeps the connections of pod db-1.
func kept(phase v1alpha1.MigrationPhase, h v1alpha1.HandoverState) *v1alpha1.Migration {
	m := keepsName(phase, h)
	m.Status.Connections = &v1alpha1.ConnectionsStatus{Addresses: []string{"10.0.0.5"}, Annotation: "example.com/address", Value: "10.0.0.5"}
	return m
}

// The source asks for its address, and the pod that takes its place; nothing beside it.
func TestOnePodAsksForAnAddress(t *testing.T) {
	asks := func(pod *corev1.Pod) []string {
		var all []string
		for name := range pod.Annotations {
			if name == "example.com/address" || name == "cni.projectcalico.org/ipAddrs" {
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return all
	}
	annotations := map[string]string{"example.com/address": "10.0.0.5", "cni.projectcalico.org/ipAddrs": `["10.0.0.5"]`, "example.com/other": "x"}
	source := addressed(annotations, "10.0.0.5")
	m := kept(v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted)
	placeholder, err := BuildPlaceholder(source, m, "gate", "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pod := range map[string]*corev1.Pod{
		"placeholder":                   placeholder,
		"target of another name":        BuildTargetPod(source, m, "gate", "", nil),
		"made by a workload controller": SteerPod(addressed(annotations), source, m, "gate", "", nil),
	} {
		if got := asks(pod); len(got) != 0 || pod.Annotations["example.com/other"] != "x" {
			t.Errorf("%s has %v", name, pod.Annotations)
		}
	}
	for name, created := range map[string]*corev1.Pod{"its template does not ask": addressed(nil), "its template asks": addressed(annotations)} {
		pod, err := SameNamePod(created, placeholder, m, "gate", "", "n2")
		if err != nil || len(asks(pod)) != 2 || pod.Annotations["example.com/address"] != "10.0.0.5" {
			t.Errorf("%s: %v", name, pod.Annotations)
		}
	}
	if len(asks(source)) != 2 {
		t.Errorf("the source is changed: %v", source.Annotations)
	}
	// Also without the placeholder.
	if pod, err := SameNamePod(addressed(nil), nil, m, "gate", "", "n2"); err != nil || pod.Annotations["example.com/address"] != "10.0.0.5" {
		t.Errorf("%+v, %v", pod, err)
	}
}

func TestWhenAddressesAreHeld(t *testing.T) {
	const committed, aborted = v1alpha1.HandoverCommitted, v1alpha1.HandoverAborted
	for name, c := range map[string]struct {
		phase    v1alpha1.MigrationPhase
		handover v1alpha1.HandoverState
		state    v1alpha1.TargetState
		want     bool
	}{
		"before the freeze":      {v1alpha1.PhasePreCopying, "", v1alpha1.TargetParked, false},
		"the source may go on":   {v1alpha1.PhaseSwitchingOver, "", v1alpha1.TargetParked, false},
		"committed":              {v1alpha1.PhaseSwitchingOver, committed, v1alpha1.TargetParked, true},
		"given up for its owner": {v1alpha1.PhaseRollingBack, aborted, v1alpha1.TargetParked, false},
		"the source goes":        {v1alpha1.PhaseReplacing, committed, "", true},
		"gate opened":            {v1alpha1.PhaseReplacing, committed, v1alpha1.TargetReleased, true},
		"restoring":              {v1alpha1.PhaseReplacing, committed, v1alpha1.TargetRestoring, true},
		"it runs":                {v1alpha1.PhaseReplacing, committed, v1alpha1.TargetRestored, false},
		"completing":             {v1alpha1.PhaseCompleting, committed, v1alpha1.TargetRestored, false},
		"given up by a person":   {v1alpha1.PhaseCompleting, committed, v1alpha1.TargetRestoring, false},
		"over":                   {v1alpha1.PhaseSucceeded, committed, v1alpha1.TargetRestored, false},
	} {
		m := kept(c.phase, c.handover)
		if got := HoldsAddresses(m, c.handover, c.state); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
		m.Status.Connections = nil
		if HoldsAddresses(m, c.handover, c.state) {
			t.Errorf("%s: held although nothing is to be kept", name)
		}
	}
	if held, err := HeldAddresses(kept("", "")); err != nil || !slices.Equal(held, []netip.Addr{netip.MustParseAddr("10.0.0.5")}) {
		t.Errorf("held: %v, %v", held, err)
	}
}

func TestConnectionsThatCannotBeRestored(t *testing.T) {
	m := kept(v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted)
	for name, c := range map[string]struct {
		ips    []string
		failed int32
		want   string
	}{
		"same address":          {[]string{"10.0.0.5"}, 0, ""},
		"and one more":          {[]string{"10.0.0.5", "fd00::5"}, 0, ""},
		"another":               {[]string{"10.0.0.6"}, 0, v1alpha1.ReasonAddressChanged},
		"none":                  {nil, 0, v1alpha1.ReasonAddressChanged},
		"a restore that failed": {[]string{"10.0.0.5"}, 1, ""},
		"several":               {[]string{"10.0.0.5"}, 2, v1alpha1.ReasonConnectionsNotRestored},
	} {
		r := JudgeConnections(m, addressed(nil, c.ips...), c.failed)
		want := v1alpha1.ConnectionsHeld
		if c.want != "" {
			want = v1alpha1.ConnectionsClosed
		}
		if r == nil || r.State != want || r.Reason != c.want || (r.Message == "") != (c.want == "") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	m.Status.Connections = nil
	if r := JudgeConnections(m, addressed(nil), 0); r != nil {
		t.Errorf("nothing is to be kept: %+v", r)
	}
}

func TestConditionOfConnections(t *testing.T) {
	now := time.Now()
	m := kept(v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted)
	for _, step := range []struct {
		report *v1alpha1.ConnectionsReport
		status metav1.ConditionStatus
		reason string
	}{
		{nil, metav1.ConditionUnknown, v1alpha1.ReasonNotYet},
		{&v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsHeld}, metav1.ConditionUnknown, v1alpha1.ReasonConnectionsHeld},
		{&v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsKept}, metav1.ConditionTrue, v1alpha1.ReasonConnectionsKept},
		{&v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsClosed, Reason: v1alpha1.ReasonAddressChanged, Message: "why"}, metav1.ConditionFalse, v1alpha1.ReasonAddressChanged},
	} {
		m.Status.Target.Connections = step.report
		c := ConnectionsCondition(m, now)
		if c == nil || c.Status != step.status || c.Reason != step.reason {
			t.Errorf("%+v: %+v", step.report, c)
		}
	}
	m.Status.Handover.State = v1alpha1.HandoverAborted
	if c := ConnectionsCondition(m, now); c == nil || c.Status != metav1.ConditionUnknown {
		t.Errorf("rolled back: %+v", c)
	}
	m.Status.Connections = nil
	if c := ConnectionsCondition(m, now); c != nil {
		t.Errorf("nothing is to be kept: %+v", c)
	}
}

// The pod's address exists once: whoever makes the pod again has to make it under its name.
func TestWhoseConnectionsAreKept(t *testing.T) {
	m := &v1alpha1.Migration{}
	for name, c := range map[string]struct {
		owner   *metav1.OwnerReference
		refused string
	}{
		"nobody's":       {nil, ""},
		"StatefulSet's":  {controllerRef("apps/v1", KindStatefulSet), ""},
		"ReplicaSet's":   {controllerRef("apps/v1", KindReplicaSet), v1alpha1.ReasonNameNotKept},
		"Job's":          {controllerRef("batch/v1", KindJob), v1alpha1.ReasonNameNotKept},
		"custom, unused": {controllerRef("example.com/v1", "Thing"), v1alpha1.ReasonNameNotKept},
	} {
		f := HandoffFacts{Owner: c.owner, KeepConnections: true}
		if got := HandoffOf(f); got != v1alpha1.HandoffSameName {
			t.Errorf("%s: handoff %q", name, got)
		}
		refusals := CheckHandoff(f, m)
		if c.refused == "" && len(refusals) != 0 || c.refused != "" && (len(refusals) != 1 || refusals[0].Reason != c.refused) {
			t.Errorf("%s: %+v", name, refusals)
		}
	}
}

func controllerRef(apiVersion, kind string) *metav1.OwnerReference {
	yes := true
	return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: "owner", UID: "owner", Controller: &yes}
}
