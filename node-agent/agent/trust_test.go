// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// api is a client that knows some Migrations and forbids every write.
type api struct {
	client.Client
	migrations []v1alpha1.Migration
	down       error
	// pod is the only one there is, nil when none is known.
	pod *corev1.Pod
}

func (a *api) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok || a.pod == nil || a.pod.Name != key.Name {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	a.pod.DeepCopyInto(pod)
	return nil
}

func (a *api) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch l := list.(type) {
	case *v1alpha1.MigrationList:
		l.Items = a.migrations
	case *corev1.PodList: // else a tenant's, without a gate: nothing is known of it
		if a.pod != nil {
			l.Items = []corev1.Pod{*a.pod}
		}
	default:
		return fmt.Errorf("nobody lists %T", list)
	}
	return a.down
}

var errForbidden = apierrors.NewForbidden(schema.GroupResource{Group: "godwit.dev", Resource: "migrations"}, "m", errors.New("status.source belongs to another"))

func (a *api) Status() client.SubResourceWriter { return subresource{} }

type subresource struct{ client.SubResourceWriter }

func (subresource) Apply(context.Context, kruntime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
	return errForbidden
}

func (subresource) Patch(context.Context, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
	return errForbidden
}

func count(t *testing.T, c *prometheus.CounterVec, labels ...string) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.WithLabelValues(labels...).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

const tenantUID = "3c0ffee0-0000-4000-8000-000000000001"

func targetOf(node, uid string, phase v1alpha1.MigrationPhase) v1alpha1.Migration {
	m := v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}}
	m.Status.Phase = phase
	m.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: node, PodUID: types.UID(uid)}}
	return m
}

// What a pod says about itself has no part in the verdict: the request does not
// even carry it. A Migration has to name the pod's UID on this node.
func TestOnlyAMigrationOfThisPodOnThisNodeParksACreate(t *testing.T) {
	aborted := targetOf("n2", tenantUID, v1alpha1.PhaseSwitchingOver)
	aborted.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted}
	for name, tc := range map[string]struct {
		migrations []v1alpha1.Migration
		down       error
		want       wire.Verdict
	}{
		"no migration at all":           {want: wire.Pass},
		"of another pod":                {migrations: []v1alpha1.Migration{targetOf("n2", "other", v1alpha1.PhaseSwitchingOver)}, want: wire.Pass},
		"of this pod on another node":   {migrations: []v1alpha1.Migration{targetOf("n1", tenantUID, v1alpha1.PhaseSwitchingOver)}, want: wire.Pass},
		"without a target":              {migrations: []v1alpha1.Migration{{}}, want: wire.Pass},
		"of this pod on this node":      {migrations: []v1alpha1.Migration{targetOf("n2", tenantUID, v1alpha1.PhaseSwitchingOver)}, want: wire.Park},
		"aborted":                       {migrations: []v1alpha1.Migration{aborted}, want: wire.Fail},
		"done":                          {migrations: []v1alpha1.Migration{targetOf("n2", tenantUID, v1alpha1.PhaseSucceeded)}, want: wire.Pass},
		"nobody knows, and none starts": {down: errors.New("down"), want: wire.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			a := New(Config{NodeName: "n2", RunDir: t.TempDir(), Client: &api{migrations: tc.migrations, down: tc.down}})
			got := a.parking.verdict(context.Background(), wire.Request{Version: wire.Version, PodUID: tenantUID, ContainerName: "app"})
			if got.Verdict != tc.want || got.Images != nil {
				t.Errorf("got %+v, want %s", got, tc.want)
			}
		})
	}
}

// A pod that is no target learns nothing over the socket: neither where images
// lie nor that there are any.
func TestAForgedPodIsToldNothing(t *testing.T) {
	a := New(Config{NodeName: "n2", RunDir: t.TempDir(), Client: &api{migrations: []v1alpha1.Migration{targetOf("n2", "other", v1alpha1.PhaseSwitchingOver)}}})
	said := converse(t, a, `{"version":4,"podUID":"`+tenantUID+`","containerName":"app","containerID":"x","bundle":"/b"}`+"\n")
	if want := `{"version":4,"verdict":"pass"}` + "\n"; said != want {
		t.Errorf("it was told %q, want %q", said, want)
	}
	if lots := a.parking.ofPod(tenantUID); len(lots) != 0 {
		t.Errorf("it is parked: %v", lots)
	}
}

func TestNonsenseOnTheSocketIsCountedAndNotAnswered(t *testing.T) {
	a := New(Config{NodeName: "n2", RunDir: t.TempDir(), Client: &api{}})
	for name, said := range map[string]string{
		"no JSON":         "restore please\n",
		"another version": `{"version":99}` + "\n",
		"too long":        strings.Repeat("x", wire.MaxMessage+1) + "\n",
		"cut short":       `{"version":1`,
	} {
		before := count(t, wrapperRequests, "invalid")
		if got := converse(t, a, said); got != "" {
			t.Errorf("%s: answered %q", name, got)
		}
		if n := count(t, wrapperRequests, "invalid") - before; n != 1 {
			t.Errorf("%s: counted %v times", name, n)
		}
	}
}

// converse says something to the agent's end of a socket and returns what it
// answers until it hangs up.
func converse(t *testing.T, a *Agent, say string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = a.parking.converse(context.Background(), conn)
	}()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The agent may hang up in the middle of what is too long.
	_, _ = io.WriteString(conn, say)
	_ = conn.CloseWrite()
	var got bytes.Buffer
	_, _ = io.Copy(&got, conn)
	<-ended
	return got.String()
}

func TestAForbiddenWriteIsTypedAndCounted(t *testing.T) {
	a := New(Config{NodeName: "n9", RunDir: t.TempDir(), Client: &api{}, Now: time.Now})
	s := sessionBase{Agent: a, key: types.NamespacedName{Namespace: "ns", Name: "m"}, uid: "u"}
	for what, write := range map[string]func() error{
		"report": func() error {
			return s.apply(context.Background(), "source", v1alpha1.FieldManagerSource, &v1alpha1.SourceReport{State: v1alpha1.SourceFrozen})
		},
		"register": func() error { return s.commit(context.Background(), "d") },
	} {
		before := count(t, writesRefused, what)
		err := write()
		if !errors.Is(err, errNotAllowed) || !apierrors.IsForbidden(err) || errors.Is(err, errRegisterTaken) {
			t.Errorf("%s: %v", what, err)
		}
		if n := count(t, writesRefused, what) - before; n != 1 {
			t.Errorf("%s: counted %v times", what, n)
		}
	}
}

func TestARefusedImageSetIsCountedByItsKind(t *testing.T) {
	root := t.TempDir()
	store, err := images.Open(root, images.Options{Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Set("u")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := set.PrepareFinal(context.Background(), "app")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "core-1.img")
	if err := os.WriteFile(file, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	sealed, err := set.Seal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("imagE"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := count(t, imageSetRefusals, string(runtime.RefusedContent))
	_, err = set.Verify(context.Background(), sealed.Digest)
	if f := unpackFailure(err); f.Reason != v1alpha1.ReasonImageSetInvalid {
		t.Errorf("failure %+v", f)
	}
	if n := count(t, imageSetRefusals, string(runtime.RefusedContent)) - before; n != 1 {
		t.Errorf("counted %v times: %v", n, err)
	}
	if f := unpackFailure(errors.New("disk")); f.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("a failure that is no refusal: %+v", f)
	}
}
