// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// Limits bound how many migrations go on side by side; 0 is no limit.
type Limits struct {
	// Cluster: in all.
	Cluster int
	// SourceNode and TargetNode: away from, and to, any one node.
	SourceNode, TargetNode int
	// VolumeBandwidth: what they write to the volume together, in bytes per second.
	VolumeBandwidth int64
}

// Ticket is a migration as the queue sees it.
type Ticket struct {
	// UID of the Migration.
	UID types.UID
	// Cause and Priority order those that wait, and then Created.
	Cause    v1alpha1.MigrationCause
	Priority int32
	Created  time.Time
	// SourceNode and TargetNode; empty while they are not known.
	SourceNode, TargetNode string
	// Running: it has begun, and not ended. It holds its place in every limit.
	Running bool
	// Placing: its target pod is there, and the scheduler has not chosen a node.
	Placing bool
	// Bandwidth to the volume that was measured in it, in bytes per second; 0 when
	// nothing was yet.
	Bandwidth int64
}

// aging is the time after which a migration that waits is treated as one of the next
// higher cause, so that a stream of drains cannot hold up others for ever.
const aging = 10 * time.Minute

// Queueing is where a migration stands in the queue.
type Queueing struct {
	// Admitted: it may begin now.
	Admitted bool
	// Position among those that wait, from 1.
	Position, Waiting int
	// Limit that it waits for, as a reason, and Message in words.
	Limit, Message string
}

// TicketOf makes a ticket of a Migration; nil for one that has ended, or that moves
// nothing.
func TicketOf(m *v1alpha1.Migration) *Ticket {
	if Finished(m.Status.Phase) || m.Spec.DryRun {
		return nil
	}
	t := &Ticket{UID: m.UID, Cause: m.Spec.Cause, Priority: m.Spec.Priority, Created: m.CreationTimestamp.Time, TargetNode: m.Spec.TargetNode,
		SourceNode: sourceNode(m)}
	if t.SourceNode == "" {
		t.SourceNode = m.Labels[v1alpha1.LabelEvacuationNode]
	}
	if s := m.Status.Target; s != nil && s.NodeName != "" {
		t.TargetNode = s.NodeName
	} else if s != nil {
		t.Placing = s.PodUID != ""
	}
	switch m.Status.Phase {
	case "", v1alpha1.PhasePending:
	default:
		t.Running = true
	}
	if s := m.Status.Source; s != nil && s.Convergence != nil {
		t.Bandwidth = s.Convergence.BandwidthBytesPerSecond
	}
	return t
}

// Enqueue says whether the migration may begin, given all the others. Those that wait
// go in the order of their rank; one that a limit of its nodes holds up does not hold
// up those behind it.
func Enqueue(limits Limits, tickets []Ticket, uid types.UID, now time.Time) Queueing {
	load := newLoad(limits)
	var waiting []Ticket
	for _, t := range tickets {
		if t.Running {
			load.add(t)
		} else {
			waiting = append(waiting, t)
		}
	}
	slices.SortStableFunc(waiting, func(a, b Ticket) int { return compareRank(a, b, now) })
	position := 0
	for _, t := range waiting {
		limit, message := load.blocks(t)
		if limit == "" {
			load.add(t)
			if t.UID == uid {
				return Queueing{Admitted: true}
			}
			continue
		}
		position++
		if t.UID == uid {
			q := Queueing{Position: position, Limit: limit}
			q.Waiting = position + load.countBlocked(waiting, uid)
			q.Message = fmt.Sprintf("waits as number %d of %d: %s", q.Position, q.Waiting, message)
			return q
		}
	}
	// It is not in the list: nothing is known that it would have to wait for.
	return Queueing{Admitted: true}
}

// compareRank is negative when a goes before b.
func compareRank(a, b Ticket, now time.Time) int {
	return cmp.Or(
		cmp.Compare(class(b, now), class(a, now)),
		cmp.Compare(b.Priority, a.Priority),
		a.Created.Compare(b.Created),
		cmp.Compare(a.UID, b.UID))
}

// class of a migration: its cause, and one more for each time that it has waited.
func class(t Ticket, now time.Time) int {
	c := 1
	switch t.Cause {
	case v1alpha1.CauseDrain:
		c = 2
	case v1alpha1.CauseRebalance:
		c = 0
	}
	return c + int(max(0, now.Sub(t.Created))/aging)
}

// load is how many migrations each limit holds.
type load struct {
	limits          Limits
	all             int
	sources, target map[string]int
	// bandwidth that was measured, in so many of all.
	bandwidth int64
	measured  int
}

func newLoad(l Limits) *load {
	return &load{limits: l, sources: map[string]int{}, target: map[string]int{}}
}

func (l *load) add(t Ticket) {
	l.all++
	if t.SourceNode != "" {
		l.sources[t.SourceNode]++
	}
	if t.TargetNode != "" {
		l.target[t.TargetNode]++
	}
	if t.Bandwidth > 0 {
		l.bandwidth += t.Bandwidth
		l.measured++
	}
}

// expected is what the migrations and one more would write to the volume, in bytes per
// second: those of which nothing is known yet as much as the others on average, and, as
// long as nothing is known of any, as much as there is.
func (l *load) expected() int64 {
	if l.all == 0 {
		return 0
	}
	if l.measured == 0 {
		return l.limits.VolumeBandwidth + 1
	}
	return l.bandwidth / int64(l.measured) * int64(l.all+1)
}

// blocks names the limit that keeps a migration from beginning.
func (l *load) blocks(t Ticket) (limit, message string) {
	full := func(n, limit int) bool { return limit > 0 && n >= limit }
	switch {
	case full(l.all, l.limits.Cluster):
		return v1alpha1.ReasonClusterLimit, fmt.Sprintf("%d migrations go on in the cluster, and %d may", l.all, l.limits.Cluster)
	case full(l.sources[t.SourceNode], l.limits.SourceNode):
		return v1alpha1.ReasonSourceNodeLimit, fmt.Sprintf("%d migrations go on away from node %s, and %d may", l.sources[t.SourceNode], t.SourceNode, l.limits.SourceNode)
	case full(l.target[t.TargetNode], l.limits.TargetNode):
		return v1alpha1.ReasonTargetNodeLimit, fmt.Sprintf("%d migrations go on to node %s, and %d may", l.target[t.TargetNode], t.TargetNode, l.limits.TargetNode)
	case l.limits.VolumeBandwidth > 0 && l.expected() > l.limits.VolumeBandwidth:
		return v1alpha1.ReasonVolumeBandwidthLimit, fmt.Sprintf("%d migrations write %s/s to the volume, and %s/s may be written", l.all, FormatBytes(l.bandwidth), FormatBytes(l.limits.VolumeBandwidth))
	}
	return "", ""
}

// countBlocked counts those behind uid that wait too.
func (l *load) countBlocked(waiting []Ticket, uid types.UID) int {
	n, behind := 0, false
	for _, t := range waiting {
		if t.UID == uid {
			behind = true
			continue
		}
		if !behind {
			continue
		}
		if limit, _ := l.blocks(t); limit != "" {
			n++
			continue
		}
		l.add(t)
	}
	return n
}

// FullTargets says of a node whether as many migrations go there as may. A target that
// has no node yet may come to any.
func FullTargets(limits Limits, tickets []Ticket, uid types.UID) func(node string) bool {
	count, anywhere := map[string]int{}, 0
	for _, t := range tickets {
		switch {
		case !t.Running || t.UID == uid:
		case t.TargetNode != "":
			count[t.TargetNode]++
		case t.Placing:
			anywhere++
		}
	}
	return func(node string) bool { return limits.TargetNode > 0 && count[node]+anywhere >= limits.TargetNode }
}
