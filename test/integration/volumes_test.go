// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// withEmptyDir gives the pod a volume that lives and dies with it.
func withEmptyDir(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/data"})
}

// writing lets the pod's volume change with every dump, and returns what it is then.
func (c *cluster) writing(pod *corev1.Pod) func() map[string]string {
	fake := c.node("n1").fake
	n := 0
	files := map[string]string{"big": "copied while it runs", "first": "removed later"}
	fake.SetVolume(string(pod.UID), "data", files)
	fake.SetHook("DirtyBytes", func(context.Context, string) error {
		n++
		delete(files, "first")
		files["log"] += fmt.Sprintln(n)
		fake.SetVolume(string(pod.UID), "data", files)
		return nil
	})
	return func() map[string]string { return fake.Volume(string(pod.UID), "data") }
}

func (c *cluster) sameVolume(m *v1alpha1.Migration, want map[string]string) {
	c.t.Helper()
	if got := c.node("n2").fake.Volume(string(m.Status.Target.PodUID), "data"); !maps.Equal(got, want) {
		c.t.Errorf("the target's volume has %v, want %v: %s", got, want, describe(m))
	}
}

func TestAnEmptyDirTravels(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.Migration){"in rounds": func(*v1alpha1.Migration) {}, "while it is frozen": stopAndCopy} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app", withEmptyDir)
			volume := c.writing(pod)
			m := c.migrate("app", change)
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			c.sameVolume(m, volume())
			if len(m.Status.Source.Volumes) == 0 {
				t.Errorf("the status does not tell of it: %s", describe(m))
			}
			if left, err := c.imagesLeft(); err != nil || len(left) > 0 {
				t.Errorf("images left on the volume: %v %v", left, err)
			}
		})
	}
}

// Logs are copied when that is asked for, and only then.
func TestLogsAreCarriedOver(t *testing.T) {
	for _, policy := range []v1alpha1.LogPolicy{v1alpha1.LogLeave, v1alpha1.LogCarryOver} {
		t.Run(string(policy), func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			name := pod.Spec.Containers[0].Name
			lines := map[string]string{"0.log": "what it has written"}
			c.node("n1").fake.SetLog(string(pod.UID), name, lines)
			m := c.migrate("app", func(m *v1alpha1.Migration) { m.Spec.LogPolicy = policy })
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			want := lines
			if policy == v1alpha1.LogLeave {
				want = nil
			}
			if got := c.node("n2").fake.Log(string(m.Status.Target.PodUID), name); !maps.Equal(got, want) {
				t.Errorf("the target's logs are %v, want %v: %s", got, want, describe(m))
			}
		})
	}
}

// Neither agent remembers what it has copied but by what is on its node and the volume.
func TestAnEmptyDirTravelsWhenAgentsAreRestarted(t *testing.T) {
	for _, at := range []struct {
		node, method, agent string
		call                int32
	}{
		{"n1", "PreDump", "n1", 2}, {"n1", "Freeze", "n2", 1}, {"n2", "Unpack", "n2", 2},
	} {
		t.Run(at.agent+" while "+at.node+" is at "+at.method, func(t *testing.T) {
			c := newCluster(t)
			n := c.node("n1")
			n.mu.Lock()
			n.sized = func(c *fake.Container) { c.SetMemory(512<<20, 400<<20, 0) }
			n.mu.Unlock()
			n.fake.SetHook("PreDump", slowVolume)
			pod := c.startPod("app", withEmptyDir)
			volume := c.writing(pod)
			reached, release := make(chan struct{}), make(chan struct{})
			var calls atomic.Int32
			c.node(at.node).fake.SetHook(at.method, func(ctx context.Context, id string) error {
				if calls.Add(1) != at.call {
					return slowVolume(ctx, id)
				}
				close(reached)
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			m := c.migrate("app", func(m *v1alpha1.Migration) {
				m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: 1200 * time.Millisecond}
			})
			c.await(m, at.method, reached)
			c.restartWhile(at.agent, release, at.node == at.agent)
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			c.sameVolume(m, volume())
		})
	}
}

// What was unpacked before the commit is held against what the source has published.
func TestFilesThatWereChangedOnTheVolumeAreNotRestored(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", withEmptyDir)
	c.writing(pod)
	var calls atomic.Int32
	c.node("n2").fake.SetHook("Unpack", func(context.Context, string) error {
		// After it was used: the first to be unpacked is the volume.
		if calls.Add(1) != 2 {
			return nil
		}
		names, err := filepath.Glob(filepath.Join(c.volume, "*", images.Pod, images.FilesName(0), "volume-data.tar"))
		if err != nil || len(names) != 1 {
			return errors.Join(err, fmt.Errorf("found %v", names))
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			return err
		}
		b[len(b)-2] ^= 1
		return os.WriteFile(names[0], b, 0o600)
	})
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonImageSetInvalid {
		t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
	}
	c.staysOnSource(pod, m)
}

func TestATargetWithoutRoomIsGivenUp(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", withEmptyDir)
	c.writing(pod)
	c.node("n2").fake.SetNextError("Unpack", fmt.Errorf("unpack: %w", runtime.ErrNoSpace))
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonNoSpace {
		t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
	}
	if m.Status.Source.FrozenAt != nil {
		t.Errorf("the pod was frozen for it: %s", describe(m))
	}
	c.staysOnSource(pod, m)
}
