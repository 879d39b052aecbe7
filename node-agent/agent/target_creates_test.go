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
	for name, tc := range map[string]struct {
		lot      *parked
		holds    holds
		restored bool
		want     createFacts
	}{
		"nothing":                            {nil, nil, false, createFacts{}},
		"parked":                             {lot(), holds{hold("c1", true, false)}, false, createFacts{waiting: true}},
		"told":                               {lot(told), holds{hold("c1", true, true)}, false, createFacts{restoring: true}},
		"told, hung up, runc lives":          {lot(told, gone), holds{hold("c1", true, true)}, false, createFacts{restoring: true}},
		"told and killed":                    {lot(told, gone), holds{hold("c1", false, true)}, false, createFacts{failed: true}},
		"told, had given up":                 {lot(told, gone), nil, false, createFacts{failed: true}},
		"said that it failed, cleared":       {lot(told, result("x")), holds{{ContainerID: "c1", Alive: true, Ordered: true, Cleared: true}}, false, createFacts{failed: true}},
		"said that runc does not end":        {lot(told, gone, result("x")), holds{hold("c1", true, true)}, false, createFacts{failed: true, restoring: true}},
		"said that it failed, and ended":     {lot(told, gone, result("x")), holds{hold("c1", false, true)}, false, createFacts{failed: true}},
		"said that it worked, no mark yet":   {lot(told, gone, result("")), nil, false, createFacts{}},
		"restored":                           {lot(told, gone, result("")), nil, true, createFacts{restored: true}},
		"restored, unknown to this agent":    {nil, nil, true, createFacts{restored: true}},
		"parked with an agent that is gone":  {nil, holds{hold("c1", true, false)}, false, createFacts{restoring: true}},
		"told by an agent that is gone":      {nil, holds{hold("c1", true, true)}, false, createFacts{restoring: true}},
		"failed for an agent that is gone":   {nil, holds{hold("c1", false, true)}, false, createFacts{failed: true}},
		"killed while it was parked":         {nil, holds{hold("c1", false, false)}, false, createFacts{}},
		"parked after one failed":            {lot(), holds{hold("c0", false, true), hold("c1", true, false)}, false, createFacts{waiting: true, failed: true}},
		"parked while another still lives":   {lot(), holds{hold("c0", true, false), hold("c1", true, false)}, false, createFacts{waiting: true, restoring: true}},
		"failed, and another one still does": {lot(told, result("x")), holds{hold("c0", true, true)}, false, createFacts{failed: true, restoring: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judgeCreate(tc.lot, tc.holds, tc.restored); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
