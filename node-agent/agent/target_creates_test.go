// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"godwit.dev/godwit/internal/wire"
)

func TestJudgeCreate(t *testing.T) {
	lot := func(change ...func(*parked)) *parked {
		l := &parked{req: wire.Request{ContainerID: "c1"}}
		for _, f := range change {
			f(l)
		}
		return l
	}
	told := func(l *parked) { l.told = true }
	gone := func(l *parked) { l.gone = true }
	result := func(msg string) func(*parked) {
		return func(l *parked) { l.result = &wire.Result{Error: msg} }
	}
	hold := func(id string, alive, ordered bool) wire.HoldState {
		return wire.HoldState{ContainerID: id, Alive: alive, Ordered: ordered}
	}
	type holds = []wire.HoldState
	worked := wire.HoldState{ContainerID: "c1", Result: &wire.Result{PID: 1}}
	alive := func(s wire.HoldState) wire.HoldState { s.Alive = true; return s }
	bare := wire.HoldState{ContainerID: "c1", Ordered: true}
	restored, lost, restoring := createFacts{restored: true, marked: true}, createFacts{lost: true, marked: true}, createFacts{restoring: true, marked: true}
	stands := wire.HoldState{ContainerID: "c1", Ordered: true, Frozen: true, Result: &wire.Result{PID: 1}}
	still := func(change func(*treeFacts)) *treeFacts {
		f := &treeFacts{mark: stands, unmarked: true, runs: true}
		change(f)
		return f
	}
	for name, tc := range map[string]struct {
		lot   *parked
		holds holds
		tree  *treeFacts
		want  createFacts
	}{
		"nothing":                            {nil, nil, nil, createFacts{}},
		"parked":                             {lot(), holds{hold("c1", true, false)}, nil, createFacts{waiting: true}},
		"told":                               {lot(told), holds{hold("c1", true, true)}, nil, createFacts{restoring: true}},
		"told, hung up, runc lives":          {lot(told, gone), holds{hold("c1", true, true)}, nil, createFacts{restoring: true}},
		"told and killed":                    {lot(told, gone), holds{hold("c1", false, true)}, nil, createFacts{failed: true}},
		"told, had given up":                 {lot(told, gone), nil, nil, createFacts{failed: true}},
		"said that it failed, cleared":       {lot(told, result("x")), holds{{ContainerID: "c1", Alive: true, Ordered: true, Cleared: true}}, nil, createFacts{failed: true}},
		"said that runc does not end":        {lot(told, gone, result("x")), holds{hold("c1", true, true)}, nil, createFacts{failed: true, restoring: true}},
		"said that it failed, and ended":     {lot(told, gone, result("x")), holds{hold("c1", false, true)}, nil, createFacts{failed: true}},
		"said that it worked, no mark yet":   {lot(told, gone, result("")), nil, nil, createFacts{}},
		"restored":                           {lot(told, gone, result("")), nil, &treeFacts{mark: worked, runs: true}, restored},
		"restored, unknown to this agent":    {nil, nil, &treeFacts{mark: worked, runs: true}, restored},
		"restored, and ended":                {nil, nil, &treeFacts{mark: worked, ran: true}, restored},
		"let go, runc lives":                 {lot(told), nil, &treeFacts{mark: alive(bare)}, restoring},
		"let go, wrapper killed":             {lot(told, gone), nil, &treeFacts{mark: bare}, lost},
		"let go, runs, runc has yet to end":  {lot(told), nil, &treeFacts{mark: alive(bare), runs: true}, restoring},
		"let go, runs, wrapper killed":       {lot(told, gone), nil, &treeFacts{mark: bare, runs: true}, lost},
		"let go, then it failed":             {lot(told, gone, result("x")), nil, &treeFacts{mark: wire.HoldState{ContainerID: "c1", Error: "x", Cleared: true}}, lost},
		"worked, wrapper about to end":       {lot(told), nil, &treeFacts{mark: alive(worked)}, restoring},
		"worked, kubelet has yet to say":     {nil, nil, &treeFacts{mark: worked}, restoring},
		"worked, kubelet says it never ran":  {nil, nil, &treeFacts{mark: worked, never: true}, lost},
		"worked, kubelet says nothing":       {nil, nil, &treeFacts{mark: worked, hopeless: true}, lost},
		"worked, and kubelet asks again":     {lot(), holds{hold("c1", true, false)}, &treeFacts{mark: worked, runs: true}, createFacts{waiting: true, restored: true, marked: true}},
		"parked with an agent that is gone":  {nil, holds{hold("c1", true, false)}, nil, createFacts{restoring: true}},
		"told by an agent that is gone":      {nil, holds{hold("c1", true, true)}, nil, createFacts{restoring: true}},
		"failed for an agent that is gone":   {nil, holds{hold("c1", false, true)}, nil, createFacts{failed: true}},
		"killed while it was parked":         {nil, holds{hold("c1", false, false)}, nil, createFacts{}},
		"parked after one failed":            {lot(), holds{hold("c0", false, true), hold("c1", true, false)}, nil, createFacts{waiting: true, failed: true}},
		"parked while another still lives":   {lot(), holds{hold("c0", true, false), hold("c1", true, false)}, nil, createFacts{waiting: true, restoring: true}},
		"stands still":                       {lot(told, gone, result("")), holds{stands}, still(func(*treeFacts) {}), createFacts{standing: true}},
		"stands still, unknown to the agent": {nil, holds{stands}, still(func(*treeFacts) {}), createFacts{standing: true}},
		"about to stand still":               {lot(told), holds{alive(stands)}, still(func(f *treeFacts) { f.mark.Alive, f.runs = true, false }), createFacts{restoring: true, settling: true}},
		"stands still, not yet containerd's": {nil, holds{stands}, still(func(f *treeFacts) { f.runs = false }), createFacts{restoring: true, settling: true}},
		"stood still, create failed":         {nil, holds{stands}, still(func(f *treeFacts) { f.runs, f.never = false, true }), createFacts{failed: true}},
		"stood still, and cleared away":      {nil, holds{stands}, still(func(f *treeFacts) { f.runs, f.mark.Cleared = false, true }), createFacts{failed: true}},
		"stood still, and was ended":         {nil, holds{stands}, still(func(f *treeFacts) { f.runs, f.ran, f.ended = false, true, true }), createFacts{failed: true}},
		"stood still, and nobody says more":  {nil, holds{stands}, still(func(f *treeFacts) { f.runs, f.hopeless = false, true }), createFacts{failed: true}},
		"ended, and kubelet asks again":      {lot(), holds{stands, hold("c2", true, false)}, still(func(f *treeFacts) { f.runs, f.ended = false, true }), createFacts{failed: true, restoring: true, waiting: true}},
		"marked, and not let go yet":         {nil, nil, &treeFacts{mark: stands, runs: true, frozen: true, ran: true}, createFacts{standing: true, marked: true}},
		"let go":                             {nil, nil, &treeFacts{mark: stands, runs: true}, restored},
		"failed, and another one still does": {lot(told, result("x")), holds{hold("c0", true, true)}, nil, createFacts{failed: true, restoring: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judgeCreate(tc.lot, tc.holds, tc.tree); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
