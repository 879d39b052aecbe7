// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestParseSample(t *testing.T) {
	got, err := parseSample("1700000000.123456 1 3 2500000 0")
	want := Sample{Node: time.UnixMicro(1700000000123456), Frozen: true, Processes: 3, CPU: 2500 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseSample("1700000000.123456 gone 0 0 0"); err != nil || !got.Gone || got.Frozen {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 0 0 0", "x 0 0 0 0", "1.5 0 x 0 0"} {
		if _, err := parseSample(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSamplerWaitsForASample(t *testing.T) {
	r, w := io.Pipe()
	s := &Sampler{stop: func() { _ = w.Close() }, done: make(chan struct{}), changed: make(chan struct{})}
	go s.receive(r)
	go func() {
		for _, line := range []string{"1.000001 0 1 10 0", "1.000002 1 1 10 0", "1.000003 gone 0 0 0"} {
			_, _ = io.WriteString(w, line+"\n")
		}
	}()
	if err := s.Await(t.Context(), "the end", func(s Sample) bool { return s.Gone }); err != nil {
		t.Fatal(err)
	}
	samples, err := s.Stop()
	if err != nil || len(samples) != 3 || !samples[1].Frozen {
		t.Errorf("%+v, %v", samples, err)
	}
	if err := s.Await(t.Context(), "what never comes", func(Sample) bool { return false }); err == nil {
		t.Error("waiting after the end did not fail")
	}
}

func TestSplitImage(t *testing.T) {
	for ref, want := range map[string][2]string{
		"localhost/godwit:dev":  {"localhost/godwit", "dev"},
		"localhost:5000/godwit": {"localhost:5000/godwit", "latest"},
	} {
		if r, tag := splitImage(ref); r != want[0] || tag != want[1] {
			t.Errorf("%s: %s, %s", ref, r, tag)
		}
	}
}

func TestAwaitSeesEachChange(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
	h := &Harness{WithWatch: fake.NewClientBuilder().WithIndex(&corev1.Pod{}, "metadata.name", func(o client.Object) []string { return []string{o.GetName()} }).Build()}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	looked := make(chan struct{})
	go func() {
		<-looked
		_ = h.Create(ctx, pod.DeepCopy())
		_ = h.Delete(ctx, pod.DeepCopy())
	}()
	var seen []bool
	seenPod := pod.DeepCopy()
	err := h.Await(ctx, seenPod, "creation and deletion", func(exists bool) (bool, error) {
		if seen = append(seen, exists); len(seen) == 1 {
			// The watch begins after this; a change in between is not missed by
			// a real API server, which the fake is not.
			time.AfterFunc(50*time.Millisecond, func() { close(looked) })
		}
		return len(seen) == 3, nil
	})
	if err != nil || len(seen) != 3 || seen[0] || !seen[1] || seen[2] {
		t.Errorf("saw %v, %v", seen, err)
	}

	broken := errors.New("broken")
	if err := h.Await(ctx, pod.DeepCopy(), "it", func(bool) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("a condition's error became %v", err)
	}
	if err := h.AwaitFor(ctx, 20*time.Millisecond, pod.DeepCopy(), "what never comes", func(bool) (bool, error) { return false, nil }); err == nil {
		t.Error("no error after the limit")
	}
}
