// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
)

var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// parkingRig is an agent of which only the parking runs.
type parkingRig struct {
	t   *testing.T
	dir string
	p   *parking
}

func newParkingRig(t *testing.T, objects ...client.Object) *parkingRig {
	t.Helper()
	scheme := kruntime.NewScheme()
	must(t, errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)))
	// A unix socket's path is short; a test's own directory may not be.
	dir, err := os.MkdirTemp("", "gw")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := New(Config{
		NodeName: "n2", RunDir: dir, Now: func() time.Time { return clock },
		Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.parking.serve(ctx, dir) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-served)
	})
	awaitSocket(t, dir)
	return &parkingRig{t, dir, a.parking}
}

// awaitSocket returns when the agent's socket is there. serve says only how it ends.
func awaitSocket(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // it can only be looked for
		if _, err := os.Stat(filepath.Join(dir, wire.SocketName)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody listens")
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// migrating is a Migration whose target is the pod "pod" on n2.
func migrating() *v1alpha1.Migration {
	return &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"},
		Status: v1alpha1.MigrationStatus{
			Phase:  v1alpha1.PhasePreCopying,
			Target: &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: "app-2", PodUID: "pod"}},
		},
	}
}

// ask sends a request and returns the answer; the conversation goes on.
func (r *parkingRig) ask(req wire.Request) (*net.UnixConn, *wire.Reader, wire.Reply) {
	r.t.Helper()
	conn, err := wire.Dial(r.t.Context(), r.dir)
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	must(r.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	req.Version, req.PodUID, req.ContainerName = wire.Version, "pod", "app"
	must(r.t, wire.Write(conn, &req))
	in, reply := wire.NewReader(conn), wire.Reply{}
	must(r.t, in.Read(&reply))
	return conn, in, reply
}

func (r *parkingRig) lot() *parked { return r.p.lot("pod", "app") }

func TestParkLimitCountsFromTheBeginningOfTheCreate(t *testing.T) {
	r := newParkingRig(t, migrating())
	for waited, since := range map[time.Duration]time.Time{
		0: clock, 40 * time.Second: clock.Add(-40 * time.Second), -time.Hour: clock,
	} {
		if _, _, reply := r.ask(wire.Request{ContainerID: "c1", Waited: waited, Parked: waited > 0}); reply.Verdict != wire.Park {
			t.Fatalf("answered %+v", reply)
		}
		if l := r.lot(); l == nil || !l.since.Equal(since) {
			t.Errorf("waited %v: lot %+v, want since %v", waited, l, since)
		}
	}
}

func TestCreateThatComesAgainTakesItsLotUp(t *testing.T) {
	r := newParkingRig(t, migrating())
	_, first, _ := r.ask(wire.Request{ContainerID: "c1"})
	_, second, reply := r.ask(wire.Request{ContainerID: "c1", Parked: true})
	if reply.Verdict != wire.Park {
		t.Fatalf("answered %+v", reply)
	}
	// The connection that it no longer uses is hung up on, without a verdict.
	if err := first.Read(&wire.Reply{}); !errors.Is(err, io.EOF) {
		t.Errorf("the old connection: %v", err)
	}
	must(t, r.lot().restore(wire.Images{Dir: "/i"}))
	must(t, second.Read(&reply))
	if reply.Verdict != wire.Restore {
		t.Errorf("told %+v", reply)
	}
}

// The earlier create's wrapper may live a moment longer: it must not come again
// and again, and push out the one that kubelet waits for.
func TestNewCreateTakesAnEarlierOnesPlaceForGood(t *testing.T) {
	r := newParkingRig(t, migrating())
	_, first, _ := r.ask(wire.Request{ContainerID: "c1"})
	r.ask(wire.Request{ContainerID: "c2"})
	var reply wire.Reply
	if err := first.Read(&reply); err != nil || reply.Verdict != wire.Fail {
		t.Errorf("the earlier one was told %+v, %v", reply, err)
	}
	if _, _, reply := r.ask(wire.Request{ContainerID: "c1", Parked: true}); reply.Verdict != wire.Fail {
		t.Errorf("it came again and was told %+v", reply)
	}
	if l := r.lot(); l == nil || l.req.ContainerID != "c2" {
		t.Errorf("lot %+v", l)
	}
}

func TestCreateThatWasParkedNeverStartsFromItsImage(t *testing.T) {
	ended := migrating()
	ended.Status.Phase = v1alpha1.PhaseSucceeded
	aborted := migrating()
	aborted.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted}
	for name, objects := range map[string][]client.Object{"no migration": nil, "succeeded": {ended}, "rolled back": {aborted}} {
		t.Run(name, func(t *testing.T) {
			r := newParkingRig(t, objects...)
			if _, _, reply := r.ask(wire.Request{ContainerID: "c1", Parked: true}); reply.Verdict != wire.Fail {
				t.Errorf("answered %+v", reply)
			}
			_, _, reply := r.ask(wire.Request{ContainerID: "c1"})
			if want := map[bool]wire.Verdict{true: wire.Fail, false: wire.Pass}[name == "rolled back"]; reply.Verdict != want {
				t.Errorf("a fresh create: answered %+v, want %s", reply, want)
			}
		})
	}
}

func TestResultOfAnotherAgentsOrderIsTaken(t *testing.T) {
	r := newParkingRig(t, migrating())
	res := &wire.Result{Version: wire.Version, Start: clock, Error: "broken"}
	if _, _, reply := r.ask(wire.Request{ContainerID: "c1", Result: res}); reply.Verdict != wire.Noted {
		t.Fatalf("answered %+v", reply)
	}
	if waiting, told, gone, got := r.lot().state(); waiting || !told || !gone || got == nil || *got != *res {
		t.Errorf("lot: %v %v %v %+v", waiting, told, gone, got)
	}
	// It settles only the create that it is about.
	r = newParkingRig(t, migrating())
	r.ask(wire.Request{ContainerID: "c2"})
	r.ask(wire.Request{ContainerID: "c1", Result: res})
	if waiting, _, _, got := r.lot().state(); !waiting || got != nil {
		t.Errorf("another create was settled: %v %+v", waiting, got)
	}
	// Of a pod that no migration brings here, nothing is kept.
	r = newParkingRig(t)
	if _, _, reply := r.ask(wire.Request{ContainerID: "c1", Result: res}); reply.Verdict != wire.Noted || r.lot() != nil {
		t.Errorf("answered %+v, lot %+v", reply, r.lot())
	}
}

// An agent that ends gives no verdict: its successor does.
func TestAgentThatEndsHangsUpWithoutAVerdict(t *testing.T) {
	r := newParkingRig(t, migrating())
	ctx, cancel := context.WithCancel(t.Context())
	dir := filepath.Join(r.dir, "next")
	served := make(chan error, 1)
	r.p.lots = map[lotKey]*parked{}
	go func() { served <- r.p.serve(ctx, dir) }()
	awaitSocket(t, dir)
	r.dir = dir
	_, in, reply := r.ask(wire.Request{ContainerID: "c1"})
	if reply.Verdict != wire.Park {
		t.Fatalf("answered %+v", reply)
	}
	cancel()
	must(t, <-served)
	if err := in.Read(&reply); !errors.Is(err, io.EOF) {
		t.Errorf("it said %+v, %v", reply, err)
	}
}

// foreigners is the metric of foreign processes, as it is scraped.
func foreigners(t *testing.T) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() != "godwit_agent_wrapper_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "foreign" {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestForeignProcessIsCounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to act as another user")
	}
	r := newParkingRig(t, migrating())
	socket := filepath.Join(r.dir, wire.SocketName)
	must(t, os.Chmod(r.dir, 0o755))
	must(t, os.Chmod(socket, 0o666))
	before := foreigners(t)
	must(t, asNobody(func() error {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		// Hung up on before it can say anything.
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			return errors.New("not hung up on")
		}
		return nil
	}))
	// The agent serves on: who is served next comes after the count.
	if _, _, reply := r.ask(wire.Request{ContainerID: "c1"}); reply.Verdict != wire.Park {
		t.Errorf("answered %+v", reply)
	}
	if got := foreigners(t) - before; got != 1 {
		t.Errorf("counted %v", got)
	}
}

// asNobody runs fn as another user. On Linux credentials belong to the thread:
// this one is given up afterwards.
func asNobody(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		done <- fn()
	}()
	return <-done
}
