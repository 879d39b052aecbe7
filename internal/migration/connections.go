// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// Established TCP connections go on where the addresses of both ends do. A pod keeps its
// address when it keeps its name, since an address exists once only, and when its network
// plugin gives it the address that an annotation of the pod asks for. Until the restored
// pod runs the target's node holds the address: what peers send again would otherwise be
// answered, with a reset, by a network that knows none of the connections.

// AddressAnnotations are those by which network plugins give a pod the addresses that
// it asks for: Calico's, Kube-OVN's and Antrea's.
var AddressAnnotations = []string{
	"cni.projectcalico.org/ipAddrs",
	"cni.projectcalico.org/ipAddrsNoIpam",
	"ipam.antrea.io/pod-ips",
	"ovn.kubernetes.io/ip_address",
}

// KeepsConnections says whether the pod's TCP connections are to be kept.
func KeepsConnections(m *v1alpha1.Migration) bool { return m.Status.Connections != nil }

// CheckConnections finds what gives the target of a pod its addresses, or why its
// connections cannot be kept. annotations are those that pin addresses beside
// AddressAnnotations.
func CheckConnections(pod *corev1.Pod, annotations []string) (*v1alpha1.ConnectionsStatus, *v1alpha1.Failure) {
	addresses := podAddresses(pod)
	if len(addresses) == 0 {
		return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonAddressNotPinned, Message: "the pod has no address that could be kept; set spec.connections to Close"}
	}
	known := slices.Concat(AddressAnnotations, annotations)
	other := ""
	for _, name := range known {
		value, ok := pod.Annotations[name]
		switch {
		case !ok:
		case containsAll(AddressesIn(value), addresses):
			s := &v1alpha1.ConnectionsStatus{Annotation: name, Value: value}
			for _, a := range addresses {
				s.Addresses = append(s.Addresses, a.String())
			}
			return s, nil
		case other == "":
			other = fmt.Sprintf("the annotation %s=%s does not ask for the pod's present address (%s), so nothing would give it to the target; ", name, Shorten(value, 100), join(addresses))
		}
	}
	if other == "" {
		other = fmt.Sprintf("nothing gives the pod's address (%s) to the target; ", join(addresses))
	}
	return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonAddressNotPinned, Message: other + fmt.Sprintf(
		"have the pod made with its address in an annotation that the network plugin goes by (%s; others are named by the manager's --address-annotations), or set spec.connections to Close", strings.Join(known, ", "))}
}

// AddressesIn finds the addresses in an annotation's value, whatever is between them:
// lists of JSON and lists with commas, addresses with and without the length of a prefix.
func AddressesIn(value string) []netip.Addr {
	var found []netip.Addr
	for _, word := range strings.FieldsFunc(value, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdefABCDEF.:/", r)
	}) {
		word, _, _ = strings.Cut(word, "/")
		if a, err := netip.ParseAddr(word); err == nil {
			found = append(found, a.Unmap())
		}
	}
	return found
}

// podAddresses are the pod's addresses as kubelet reports them.
func podAddresses(pod *corev1.Pod) []netip.Addr {
	var found []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			found = append(found, a.Unmap())
		}
	}
	return found
}

func containsAll(all, some []netip.Addr) bool {
	return !slices.ContainsFunc(some, func(a netip.Addr) bool { return !slices.Contains(all, a) })
}

func join(addresses []netip.Addr) string {
	words := make([]string, len(addresses))
	for i, a := range addresses {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

// addressAnnotations are those by which the pod asks for its address.
func addressAnnotations(pod *corev1.Pod, m *v1alpha1.Migration) map[string]string {
	asks := map[string]string{}
	names := AddressAnnotations
	if c := m.Status.Connections; c != nil {
		names = append(slices.Clone(names), c.Annotation)
	}
	for _, name := range names {
		if value, ok := pod.Annotations[name]; ok {
			asks[name] = value
		}
	}
	return asks
}

// withoutAddresses has a pod beside the source not ask for the source's addresses.
func withoutAddresses(pod *corev1.Pod, m *v1alpha1.Migration) {
	for name := range addressAnnotations(pod, m) {
		delete(pod.Annotations, name)
	}
}

// HeldAddresses are those that the target's node lets no TCP pass of, from before the
// commit until the pod runs there; nil when it holds none.
func HeldAddresses(m *v1alpha1.Migration) ([]netip.Addr, error) {
	if m.Status.Connections == nil {
		return nil, nil
	}
	held := make([]netip.Addr, 0, len(m.Status.Connections.Addresses))
	for _, s := range m.Status.Connections.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("status.connections: %w", err)
		}
		held = append(held, a)
	}
	return held, nil
}

// HoldsAddresses says whether the target's node has to hold the pod's addresses, with
// the register and the target's state as its agent knows them.
func HoldsAddresses(m *v1alpha1.Migration, handover v1alpha1.HandoverState, state v1alpha1.TargetState) bool {
	return KeepsConnections(m) && handover == v1alpha1.HandoverCommitted && state != v1alpha1.TargetRestored && state != v1alpha1.TargetCleaned &&
		(m.Status.Phase == v1alpha1.PhaseSwitchingOver || m.Status.Phase == v1alpha1.PhaseReplacing)
}

// keptRestores is how many restores that keep the connections may fail before one closes
// them.
const keptRestores = 2

// JudgeConnections says whether the connections can be restored into a pod, after so many
// restores that have failed. nil when nothing is to be kept.
func JudgeConnections(m *v1alpha1.Migration, pod *corev1.Pod, failedRestores int32) *v1alpha1.ConnectionsReport {
	c := m.Status.Connections
	if c == nil {
		return nil
	}
	closed := func(reason, format string, args ...any) *v1alpha1.ConnectionsReport {
		return &v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsClosed, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	wanted, err := HeldAddresses(m)
	if err != nil {
		return closed(v1alpha1.ReasonAddressChanged, "%v", err)
	}
	if has := podAddresses(pod); !containsAll(has, wanted) {
		return closed(v1alpha1.ReasonAddressChanged, "the target has the address %s and not the source's, %s, although its annotation %s=%s asks for it: the pod finds its connections closed, and peers learn it when they get no answer",
			join(has), strings.Join(c.Addresses, ", "), c.Annotation, Shorten(c.Value, 100))
	}
	if failedRestores >= keptRestores {
		return closed(v1alpha1.ReasonConnectionsNotRestored, "%d restores with the pod's connections have failed, so it is restored without them", failedRestores)
	}
	return &v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsHeld}
}

// ConnectionsCondition is the condition ConnectionsKept; nil when nothing is to be kept.
func ConnectionsCondition(m *v1alpha1.Migration, now time.Time) *metav1.Condition {
	if !KeepsConnections(m) {
		return nil
	}
	c := &metav1.Condition{Type: v1alpha1.ConditionConnectionsKept, ObservedGeneration: m.Generation,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
	c.Status, c.Reason, c.Message = connectionsKept(m)
	c.Message = Shorten(c.Message, maxConditionMessage)
	if old := meta.FindStatusCondition(m.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

func connectionsKept(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	var r v1alpha1.ConnectionsReport
	if t := m.Status.Target; t != nil && t.Connections != nil {
		r = *t.Connections
	}
	switch {
	case handover(m) == v1alpha1.HandoverAborted, Finished(m.Status.Phase) && handover(m) == "":
		return metav1.ConditionUnknown, v1alpha1.ReasonNotYet, "the pod was not moved"
	case r.State == v1alpha1.ConnectionsKept:
		return metav1.ConditionTrue, v1alpha1.ReasonConnectionsKept, "the pod's TCP connections go on"
	case r.State == v1alpha1.ConnectionsClosed:
		return metav1.ConditionFalse, conditionReason(r.Reason), r.Message
	case r.State == v1alpha1.ConnectionsHeld:
		return metav1.ConditionUnknown, v1alpha1.ReasonConnectionsHeld, "the target's node lets no TCP of the pod's address pass until the pod runs"
	}
	return notYet()
}
