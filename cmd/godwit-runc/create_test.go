// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

func TestEveryOtherVerbIsForwarded(t *testing.T) {
	r := newRig(t, "ok")
	for _, verb := range words("checkpoint events exec features kill list pause ps restore resume run spec state update delete start future") {
		args := r.args(verb, "--some-flag", "x", testID)
		r.rec.forwarded = nil
		if err := r.w.Exec(args); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		if !reflect.DeepEqual(r.rec.forwarded, [][]string{args}) {
			t.Errorf("%s: forwarded %q", verb, r.rec.forwarded)
		}
	}
}

func TestCreateAsksOnlyForContainersThatCouldBeRestored(t *testing.T) {
	for name, a := range map[string]map[string]string{
		"sandbox":     {annotationType: "sandbox"},
		"not of CRI":  {annotationType: "", annotationPodUID: "", annotationName: ""},
		"gate":        {annotationName: gateName},
		"other value": {annotationType: "Container"},
	} {
		t.Run(name, func(t *testing.T) {
			// No agent listens, and the pod belongs to a migration: asking would fail.
			r := newRig(t, "ok")
			r.config(a)
			if err := r.w.Exec(r.create()); err != nil || len(r.rec.forwarded) != 1 {
				t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
			}
		})
	}
}

func TestAgentLearnsWhatIsToBeCreated(t *testing.T) {
	r := newRig(t, "ok")
	_, requests := r.agent(wire.Reply{Verdict: wire.Pass})
	must(t, r.w.Exec(r.create()))
	want := wire.Request{Version: wire.Version, PodUID: testPod, ContainerName: "app", SandboxID: "sand", ContainerID: testID, Bundle: r.dir + "/bundle"}
	got := <-requests
	if got.Waited <= 0 {
		t.Errorf("waited %v", got.Waited)
	}
	got.Waited = 0
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !reflect.DeepEqual(r.rec.forwarded, [][]string{r.create()}) {
		t.Errorf("forwarded %q", r.rec.forwarded)
	}
}

// An error means: not forwarded. This is what keeps a migrating container from
// being started from its image.
func TestAnErrorMeansDoNotForward(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(r *rig)
		want    error
	}{
		"agent says fail": {func(r *rig) {
			r.agent(wire.Reply{Verdict: wire.Fail, Reason: "ImageSetInvalid", Message: "digest"})
		}, errRefused},
		"agent says something new": {func(r *rig) { r.agent(wire.Reply{Verdict: "resurrect"}) }, errRefused},
		"agent says nothing":       {func(r *rig) { r.agent(wire.Reply{}) }, errRefused},
		"no agent":                 {func(r *rig) {}, errAgentGone},
		"agent hangs up":           {func(r *rig) { r.agent() }, errAgentGone},
		"agent of another version": {func(r *rig) { r.agent(wire.Reply{Version: 99, Verdict: wire.Pass}) }, wire.ErrVersion},
		"agent hangs up while parked": {func(r *rig) {
			r.agent(wire.Reply{Verdict: wire.Park})
		}, errParked},
		"fail after parking": {func(r *rig) {
			r.agent(wire.Reply{Verdict: wire.Park}, wire.Reply{Verdict: wire.Park}, wire.Reply{Verdict: wire.Fail})
		}, errRefused},
		"pass after parking": {func(r *rig) {
			r.agent(wire.Reply{Verdict: wire.Park}, wire.Reply{Verdict: wire.Pass})
		}, errRefused},
		"restore without images": {func(r *rig) { r.agent(wire.Reply{Verdict: wire.Restore}) }, errRestore},
		"unreadable config": {func(r *rig) {
			must(r.t, os.WriteFile(r.dir+"/bundle/config.json", []byte("{"), 0o600))
		}, errBundle},
		"no config":          {func(r *rig) { must(r.t, os.Remove(r.dir+"/bundle/config.json")) }, errBundle},
		"UID that is a path": {func(r *rig) { r.config(map[string]string{annotationPodUID: "../../etc"}) }, errBundle},
		"no container name":  {func(r *rig) { r.config(map[string]string{annotationName: ""}) }, errBundle},
		"CRIU configuration of a tenant": {func(r *rig) {
			r.config(map[string]string{annotationCRIU: "/tenant.conf"})
			r.agent(wire.Reply{Verdict: wire.Pass})
		}, errCRIUConfig},
		"CRIU configuration of a tenant for one container": {func(r *rig) {
			r.config(map[string]string{annotationCRIU + "/app": "/tenant.conf"})
			r.agent(r.order(time.Second))
		}, errCRIUConfig},
		"CRIU configuration in a pod that claims no migration": {func(r *rig) {
			r.config(map[string]string{annotationCRIU: "/tenant.conf", annotationMigration: ""})
		}, errCRIUConfig},
		"consumed mark cannot be looked for": {func(r *rig) {
			must(r.t, os.WriteFile(filepath.Join(r.w.runDir, "restored"), nil, 0o600))
		}, errHold},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			tc.prepare(r)
			if err := r.w.Exec(r.create()); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if len(r.rec.forwarded) != 0 {
				t.Errorf("forwarded %q", r.rec.forwarded)
			}
			if c := r.calls(); c != "" {
				t.Errorf("runc was called: %s", c)
			}
			for _, h := range r.holds() {
				if h.Alive || !errors.Is(tc.want, errRestore) {
					t.Errorf("its hold stayed: %+v", h)
				}
			}
		})
	}
}

// A tenant's pod can claim a migration and name whatever it likes: it is created
// like any other, or not at all while there is nobody to ask (TestWithoutAgent).
func TestForgedAnnotationsRestoreNothing(t *testing.T) {
	r := newRig(t, "ok")
	r.config(map[string]string{annotationMigration: "kube-system/other", "godwit.dev/images": r.dir + "/images", "godwit.dev/restore": "true"})
	r.agent(wire.Reply{Verdict: wire.Pass})
	must(t, r.w.Exec(r.create()))
	if !reflect.DeepEqual(r.rec.forwarded, [][]string{r.create()}) || r.calls() != "" {
		t.Errorf("forwarded %q, runc was called: %s", r.rec.forwarded, r.calls())
	}
}

func TestWithoutAgent(t *testing.T) {
	for name, tc := range map[string]struct {
		migrating, consumed, confirmed, forward bool
	}{
		"no migration":                     {false, false, false, true},
		"migration":                        {true, false, false, false},
		"restored, and the source is kept": {true, true, false, false},
		"crash after a finished migration": {true, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			if !tc.migrating {
				r.config(map[string]string{annotationMigration: ""})
			}
			if tc.consumed {
				r.consume()
			}
			if tc.confirmed {
				must(t, wire.Confirm(r.w.runDir, testPod))
			}
			start := time.Now()
			err := r.w.Exec(r.create())
			if (err == nil) != tc.forward || (len(r.rec.forwarded) == 1) != tc.forward {
				t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
			}
			if waited := time.Since(start) >= r.w.limits.agent; waited == tc.forward {
				t.Errorf("waited for the agent: %v", waited)
			}
		})
	}
}

func TestAgentThatComesBackIsWaitedFor(t *testing.T) {
	r := newRig(t, "ok")
	r.w.limits.agent = 20 * time.Second
	done := make(chan error, 1)
	go func() { done <- r.w.Exec(r.create()) }()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(150 * time.Millisecond):
	}
	r.agent(wire.Reply{Verdict: wire.Pass})
	if err := <-done; err != nil || len(r.rec.forwarded) != 1 {
		t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
	}
}

func TestRestoreIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(r *rig) []string
		say     string
	}{
		"terminal": {func(r *rig) []string {
			return r.args("create", "--bundle", r.dir+"/bundle", "--pid-file", r.dir+"/pid", "--console-socket", "/s", testID)
		}, "terminal"},
		"unknown flag": {func(r *rig) []string {
			return r.args("create", "--bundle", r.dir+"/bundle", "--pid-file", r.dir+"/pid", "--shiny", testID)
		}, "--shiny"},
		"container exists": {func(r *rig) []string {
			must(r.t, os.Mkdir(r.dir+"/root/"+testID, 0o700))
			return r.create()
		}, "exists already"},
		"cgroup exists": {func(r *rig) []string {
			must(r.t, os.MkdirAll(r.w.cgroupRoot+"/ctr", 0o700))
			return r.create()
		}, "exists already"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			args := tc.prepare(r)
			results, _ := r.agent(r.order(time.Second))
			err := r.w.Exec(args)
			if !errors.Is(err, errRestore) || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("got %v", err)
			}
			if res := <-results; !strings.Contains(res.Error, tc.say) || res.PID != 0 {
				t.Errorf("the agent was told %+v", res)
			}
			if c := r.calls(); c != "" || len(r.rec.forwarded) != 0 {
				t.Errorf("runc was called: %s %q", c, r.rec.forwarded)
			}
		})
	}
}
