// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestEnqueue(t *testing.T) {
	now := time.Unix(100000, 0)
	ticket := func(uid string, cause v1alpha1.MigrationCause, priority int32, ago time.Duration, from, to string, running bool) Ticket {
		return Ticket{UID: types.UID(uid), Cause: cause, Priority: priority, Created: now.Add(-ago), SourceNode: from, TargetNode: to, Running: running}
	}
	const drain, user, rebalance = v1alpha1.CauseDrain, v1alpha1.CauseUser, v1alpha1.CauseRebalance
	for name, tc := range map[string]struct {
		limits  Limits
		others  []Ticket
		limit   string
		says    string
		waiting int
	}{
		"nobody else":               {Limits{Cluster: 1}, nil, "", "", 0},
		"no limits":                 {Limits{}, []Ticket{ticket("a", drain, 0, 0, "n1", "n2", true)}, "", "", 0},
		"the cluster is full":       {Limits{Cluster: 1}, []Ticket{ticket("a", user, 0, 0, "n3", "", true)}, v1alpha1.ReasonClusterLimit, "number 1 of 1: 1 migrations go on in the cluster, and 1 may", 1},
		"the source is full":        {Limits{SourceNode: 1}, []Ticket{ticket("a", user, 0, 0, "n1", "", true)}, v1alpha1.ReasonSourceNodeLimit, "away from node n1", 1},
		"another source is full":    {Limits{SourceNode: 1}, []Ticket{ticket("a", user, 0, 0, "n3", "", true)}, "", "", 0},
		"the target is full":        {Limits{TargetNode: 1}, []Ticket{ticket("a", user, 0, 0, "n3", "n2", true)}, v1alpha1.ReasonTargetNodeLimit, "to node n2", 1},
		"an older one goes first":   {Limits{Cluster: 1}, []Ticket{ticket("a", user, 0, time.Minute, "n3", "", false)}, v1alpha1.ReasonClusterLimit, "number 1 of 1", 1},
		"a younger one waits":       {Limits{Cluster: 1}, []Ticket{ticket("a", user, 0, 0, "n3", "", false)}, "", "", 0},
		"a drain goes first":        {Limits{Cluster: 1}, []Ticket{ticket("a", drain, 0, 0, "n3", "", false)}, v1alpha1.ReasonClusterLimit, "number 1 of 1", 1},
		"rebalancing waits":         {Limits{Cluster: 1}, []Ticket{ticket("a", rebalance, 9, time.Minute, "n3", "", false)}, "", "", 0},
		"priority within the cause": {Limits{Cluster: 1}, []Ticket{ticket("a", user, 1, 0, "n3", "", false)}, v1alpha1.ReasonClusterLimit, "", 1},
		"who waits long enough goes before a drain": {Limits{Cluster: 1}, []Ticket{
			ticket("a", rebalance, 0, 21*time.Minute, "n3", "", false)}, v1alpha1.ReasonClusterLimit, "", 1},
		"one held up by its node holds up nobody": {Limits{Cluster: 2, SourceNode: 1}, []Ticket{
			ticket("a", user, 0, 0, "n3", "", true), ticket("b", drain, 0, 0, "n3", "", false)}, "", "", 0},
		"the volume is busy":  {Limits{VolumeBandwidth: 100}, []Ticket{{UID: "a", Running: true, Bandwidth: 60}}, v1alpha1.ReasonVolumeBandwidthLimit, "write 60/s to the volume, and 100/s may", 1},
		"the volume has room": {Limits{VolumeBandwidth: 100}, []Ticket{{UID: "a", Running: true, Bandwidth: 50}}, "", "", 0},
		"one of which nothing is known counts": {Limits{VolumeBandwidth: 100}, []Ticket{
			{UID: "a", Running: true, Bandwidth: 40}, {UID: "b", Running: true}}, v1alpha1.ReasonVolumeBandwidthLimit, "2 migrations write", 1},
		"nothing is known of any":          {Limits{VolumeBandwidth: 100}, []Ticket{{UID: "a", Running: true}}, v1alpha1.ReasonVolumeBandwidthLimit, "", 1},
		"nobody else writes to the volume": {Limits{VolumeBandwidth: 1}, nil, "", "", 0},
		"position and count": {Limits{Cluster: 1}, []Ticket{ticket("a", user, 0, 0, "n3", "", true),
			ticket("b", drain, 0, 0, "n3", "", false), ticket("c", rebalance, 0, 0, "n3", "", false)}, v1alpha1.ReasonClusterLimit, "number 2 of 3", 3},
	} {
		t.Run(name, func(t *testing.T) {
			me := ticket("me", user, 0, 30*time.Second, "n1", "n2", false)
			q := Enqueue(tc.limits, append(tc.others, me), "me", now)
			if q.Admitted != (tc.limit == "") || q.Limit != tc.limit || !strings.Contains(q.Message, tc.says) || q.Waiting != tc.waiting {
				t.Errorf("%+v, want limit %q, saying %q, of %d", q, tc.limit, tc.says, tc.waiting)
			}
		})
	}
}

// Whoever is admitted, one after the other and in any order of asking, no limit is
// ever exceeded, and as long as anything can begin something does.
func TestQueueKeepsItsLimits(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	causes := []v1alpha1.MigrationCause{v1alpha1.CauseDrain, v1alpha1.CauseUser, v1alpha1.CauseRebalance}
	for range 300 {
		limits := Limits{Cluster: r.Intn(5), SourceNode: r.Intn(3), TargetNode: r.Intn(3), VolumeBandwidth: int64(r.Intn(2) * 100)}
		now := time.Unix(1000000, 0)
		var tickets []Ticket
		for i := range 12 {
			tickets = append(tickets, Ticket{UID: types.UID(fmt.Sprint(i)), Cause: causes[r.Intn(3)], Priority: int32(r.Intn(3)),
				Created: now.Add(-time.Duration(r.Intn(3000)) * time.Second), SourceNode: fmt.Sprint("s", r.Intn(3)), TargetNode: fmt.Sprint("t", r.Intn(3))})
		}
		for len(tickets) > 0 {
			began := false
			for _, i := range r.Perm(len(tickets)) {
				if !tickets[i].Running && Enqueue(limits, tickets, tickets[i].UID, now).Admitted {
					tickets[i].Running, began = true, true
					checkLimits(t, limits, tickets)
				}
			}
			var running []int
			for i := range tickets {
				if tickets[i].Running {
					running = append(running, i)
				}
			}
			if !began && len(running) == 0 {
				t.Fatalf("nothing begins: %+v %+v", limits, tickets)
			}
			i := running[r.Intn(len(running))]
			tickets = append(tickets[:i], tickets[i+1:]...)
			now = now.Add(time.Minute)
		}
	}
}

func checkLimits(t *testing.T, limits Limits, tickets []Ticket) {
	t.Helper()
	count := map[string]int{}
	for _, x := range tickets {
		if x.Running {
			count["all"]++
			count[x.SourceNode]++
			count[x.TargetNode]++
		}
	}
	for key, n := range count {
		limit := limits.Cluster
		switch key[0] {
		case 's':
			limit = limits.SourceNode
		case 't':
			limit = limits.TargetNode
		}
		if limit > 0 && n > limit {
			t.Fatalf("%d of %s, with the limits %+v", n, key, limits)
		}
	}
}

// A migration for rebalancing ends up before any stream of drains.
func TestNobodyStarves(t *testing.T) {
	now := time.Unix(1000000, 0)
	me := Ticket{UID: "me", Cause: v1alpha1.CauseRebalance, Priority: -1000, Created: now, SourceNode: "n1"}
	for waited := time.Duration(0); waited < time.Hour; waited += time.Minute {
		at := now.Add(waited)
		fresh := Ticket{UID: "drain", Cause: v1alpha1.CauseDrain, Priority: 1000, Created: at, SourceNode: "n2"}
		if Enqueue(Limits{Cluster: 1}, []Ticket{me, fresh}, "me", at).Admitted {
			return
		}
	}
	t.Error("it waits after an hour")
}

func TestWhatIsQueued(t *testing.T) {
	pending := func(change func(*Observation)) Observation {
		o := Observation{Now: time.Unix(1000, 0), Migration: &v1alpha1.Migration{}, Source: PodFacts{Exists: true, UID: "s", NodeName: "n1", Phase: "Running"}}
		o.Migration.CreationTimestamp.Time = o.Now
		o.Migration.Spec.Cause = v1alpha1.CauseDrain
		o.Migration.Status.Phase = v1alpha1.PhasePending
		o.Migration.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodUID: "s"}}
		change(&o)
		return o
	}
	noNode := &v1alpha1.Failure{Reason: v1alpha1.ReasonNoEligibleNode, Message: "no other node can take the pod"}
	for name, tc := range map[string]struct {
		change func(*Observation)
		action Action
		phase  v1alpha1.MigrationPhase
		queued string
		says   string
	}{
		"its turn": {func(o *Observation) {}, Advance, v1alpha1.PhasePreparing, "", ""},
		"a limit": {func(o *Observation) {
			o.Queued = &Queueing{Limit: v1alpha1.ReasonClusterLimit, Message: "number 3 of 4"}
		},
			Wait, "", v1alpha1.ReasonClusterLimit, "number 3 of 4"},
		"no node for a drain": {func(o *Observation) { o.Blocked = noNode }, Wait, "", v1alpha1.ReasonNoNodeYet, "no other node can take the pod"},
		"no node for a user": {func(o *Observation) { o.Blocked, o.Migration.Spec.Cause = noNode, v1alpha1.CauseUser },
			Advance, v1alpha1.PhaseFailed, "", "no other node"},
		"not looked at yet, and no node": {func(o *Observation) { o.Blocked, o.Migration.Status.Phase = noNode, "" }, Advance, v1alpha1.PhasePending, "", ""},
		"the drain is over":              {func(o *Observation) { o.DrainOver = true }, Advance, v1alpha1.PhaseCancelled, "", "node n1 is in use again"},
		"it has waited too long": {func(o *Observation) {
			o.Now, o.Queued = o.Now.Add(MaxQueued+time.Second), &Queueing{Limit: v1alpha1.ReasonClusterLimit}
			o.Migration.Status.Message = "waits as number 3 of 4"
		}, Advance, v1alpha1.PhaseFailed, "", "it could not begin within 1h0m0s: waits as number 3 of 4"},
		"its timeout counts from when it begins": {func(o *Observation) {
			o.Now = o.Now.Add(30 * time.Minute)
		}, Advance, v1alpha1.PhasePreparing, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := pending(tc.change)
			d := Decide(o)
			if d.Action != tc.action || d.Phase != tc.phase || !strings.Contains(d.Message, tc.says) || (d.Queued != nil) != (tc.queued != "") {
				t.Fatalf("%+v", d)
			}
			c := QueuedCondition(o.Migration, d, o.Now)
			if (c != nil) != (tc.queued != "") || c != nil && (c.Reason != tc.queued || c.Status != "True") {
				t.Errorf("condition %+v", c)
			}
			if c != nil {
				o.Migration.Status.Conditions = append(o.Migration.Status.Conditions, *c)
				if c := QueuedCondition(o.Migration, Decision{}, o.Now); c == nil || c.Status != "False" {
					t.Errorf("when it has begun: %+v", c)
				}
			}
		})
	}
}
