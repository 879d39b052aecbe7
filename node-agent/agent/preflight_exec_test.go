// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

// visits answers how many processes have entered a container, look by look.
type visits struct{ sessions []int }

func (v *visits) Inspect(context.Context, runtime.Container) (runtime.Inspection, error) {
	i := runtime.Inspection{Processes: 1, ExecSessions: v.sessions[0]}
	if len(v.sessions) > 1 {
		v.sessions = v.sessions[1:]
	}
	return i, nil
}

func TestAnExecProbeIsNoSession(t *testing.T) {
	v := &visits{sessions: []int{1, 1, 0}}
	s := &sourceSession{sessionBase: sessionBase{Agent: &Agent{Config: Config{Node: Node{Inspector: v}}}}}
	i, err := s.inspect(t.Context(), runtime.Container{Name: "app"})
	if err != nil || i.ExecSessions != 0 || i.Processes != 1 {
		t.Errorf("saw %+v, %v", i, err)
	}
	if len(v.sessions) != 1 {
		t.Errorf("%d looks were left", len(v.sessions)-1)
	}
}
